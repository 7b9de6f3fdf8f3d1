//! What may be typed: every command, flag and limit, with the words of `--help`.

pub(super) mod people;
pub(super) mod raw;
pub(super) mod rollups;
pub(super) mod schemas;
pub(super) mod status;
pub(super) mod test_accounts;
pub(super) mod webhooks;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::event::Timestamp;

/// Product analytics and usage metering in one binary.
#[derive(Debug, Parser)]
#[command(name = "flexflow", version, propagate_version = false, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a check found a problem, 130 interrupted."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Read settings from this TOML file; a later one wins
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Vec<PathBuf>,
    /// Keep everything embedded below this folder (same as --set data_dir=DIR)
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<String>,
    /// Set any key of `flexflow config reference`; wins over files and environment
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", help_heading = "Global options")]
    pub set: Vec<String>,
    /// trace, debug, info, warn or error, or directives such as info,flexflow::consumer=debug
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    pub log_level: Option<String>,
    /// Write data to stdout as JSON, for programs
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run roles in this process; without --role all of them
    Serve(Serve),
    /// Run the role capture: HTTP to log (short for serve --role capture)
    Capture(Listen),
    /// Run the role consumer: log to store, and the durable jobs (short for serve --role consumer)
    Consumer(Consumer),
    /// Run the role query: store to answers (short for serve --role query)
    Query(Listen),
    /// Run the role auth: projects, environments and keys (short for serve --role auth)
    Auth(Listen),
    /// Check every dependency, topic, table and setting, and name the cure of each failure; exit 3 if one failed
    Doctor,
    /// Create or update the tables, as `serve` does when it starts
    Migrate,
    /// List, check, create and grow the topics of the log
    #[command(subcommand)]
    Topics(Topics),
    /// Create and list projects
    #[command(subcommand)]
    Projects(Projects),
    /// Create and list the environments of a project
    #[command(subcommand)]
    Environments(Environments),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Create, list, disable and enable accounts, and reset passwords
    #[command(subcommand)]
    Users(people::Users),
    /// Who may do what in a project: members and invitations
    #[command(subcommand)]
    Members(people::Members),
    /// What signs the access tokens of people: list, rotate
    #[command(subcommand)]
    SigningKeys(people::SigningKeys),
    /// Who made, changed or took away what
    AuditLog(people::AuditLog),
    /// How far consumer groups are behind the log, by partition
    Lag(status::Lag),
    /// A live dashboard: rates, lag, batches, duplicates, dead letters, breakers
    Top(status::Top),
    /// Dead letters: count, list, show, replay, discard
    #[command(subcommand)]
    Dlq(Dlq),
    /// Who is told of system events: create, list, test, look at deliveries, replay
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    /// Properties with a column of their own: list, promote, demote
    #[command(subcommand)]
    Properties(Properties),
    /// Whom questions leave out when they are told to: show, set, clear
    #[command(subcommand)]
    TestAccounts(test_accounts::TestAccounts),
    /// What raw events become: try a transform, list, show, apply
    #[command(subcommand)]
    Transform(raw::Transform),
    /// Put raw events through their transform again: start, list, status, cancel, resume
    #[command(subcommand)]
    Reprocess(raw::Reprocess),
    /// What the properties of events have to look like: list, show, apply
    #[command(subcommand)]
    Schemas(schemas::Schemas),
    /// Hourly and daily counts of events: what there is, build them anew
    #[command(subcommand)]
    Rollups(rollups::Rollups),
    /// Where one event is: received, in the log, stored, a dead letter, or not found yet
    Trace(Trace),
    /// Print events as they arrive
    Tail(Tail),
    /// Look for every record of the log in the store and the dead letters; exit 3 if one is nowhere (--metadata: if a row
    /// does not say where it came from)
    Audit(status::Audit),
    /// Make traffic: people who sign up, browse, click adverts and buy
    Generate(Generate),
    /// Get the embedded ClickHouse engine, or say where it is
    #[command(subcommand)]
    Engine(Engine),
    /// Show, check and explain the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a shell's completion script
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// Where a role listens.
#[derive(Debug, Default, Args)]
pub(super) struct Listen {
    /// Listen on this address and port (same as --set server.listen=ADDR); port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Run every role (the default)
    #[arg(long, conflicts_with = "role")]
    pub all: bool,
    /// Run this role: capture, consumer, query or auth; may be repeated
    #[arg(long, value_name = "ROLE", value_parser = ["capture", "consumer", "query", "auth"], hide_possible_values = true)]
    pub role: Vec<String>,
    #[command(flatten)]
    pub listen: Listen,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Consumer {
    #[command(flatten)]
    pub listen: Listen,
    #[command(subcommand)]
    pub command: Option<ConsumerCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConsumerCommand {
    /// Let a partition go on that stopped because too many of its records were refused
    Resume {
        /// Topic of the partition; default: topics.events
        #[arg(long)]
        topic: Option<String>,
        #[arg(long)]
        partition: i32,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Topics {
    /// List topics with their partitions and offsets
    List,
    /// Compare the topics that are needed with those that exist; exit 3 if one is missing
    Check,
    /// Create the topics that are missing
    Create,
    /// Give a topic more partitions; a key's later events may then go to another partition
    Grow {
        #[arg(long)]
        topic: String,
        /// How many it shall have
        #[arg(long)]
        partitions: i32,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Projects {
    /// Create a project with its environments production and development
    Create {
        #[arg(long)]
        name: String,
    },
    /// List projects
    List,
    /// Give a project another name
    Rename {
        /// Id or name of the project
        project: String,
        #[arg(long)]
        name: String,
    },
    /// Give a project another time zone: what its questions are asked in that name none
    Zone {
        /// Id or name of the project
        project: String,
        /// IANA name, such as Europe/Berlin
        time_zone: String,
    },
    /// Hide a project everywhere and revoke its keys; its events stay until their retention
    Delete {
        /// Id of the project: a name is not enough for this
        project_id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Environments {
    /// Create an environment
    Create {
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
        #[arg(long)]
        name: String,
    },
    /// Give an environment another name
    Rename {
        /// Id or name of the environment
        environment: String,
        #[arg(long)]
        name: String,
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// List a project's environments
    List {
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Create an API key; it is shown this once
    Create {
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
        /// Id or name of the environment that the key is bound to
        #[arg(long, default_value = "production")]
        environment: String,
        /// What it may do: ingest, query, admin
        #[arg(long, value_delimiter = ',', default_value = "ingest,query", value_parser = ["ingest", "query", "admin"], hide_possible_values = true)]
        scopes: Vec<String>,
        /// What it is for
        #[arg(long)]
        name: Option<String>,
        /// From when on it no longer works (RFC 3339); default: never
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires_at: Option<Timestamp>,
        /// Requests a second it may make; default: auth.key_rate_max
        #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
        rate_max: Option<u32>,
    },
    /// List a project's keys by their prefixes
    List {
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// Revoke a key: at once on this process, within auth.key_cache_ttl on others
    Revoke {
        /// Id of the key, as `keys list` shows it
        key_id: String,
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
}

/// Which server answers; by default the one that runs on this `data_dir`, or one started for this command.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Remote {
    /// Ask this server instead of the one on this data_dir
    #[arg(long, env = "FLEXFLOW_URL", value_name = "URL", help_heading = "Server")]
    pub url: Option<String>,
    /// API key for that server
    #[arg(
        long,
        env = "FLEXFLOW_API_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub api_key: Option<String>,
}

/// Whose events.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Scope {
    /// Id or name of the project; default: the default project, or the API key's
    #[arg(long, help_heading = "Scope")]
    pub project: Option<String>,
    /// Id or name of the environment; default: production, or the API key's
    #[arg(long, help_heading = "Scope")]
    pub environment: Option<String>,
}

/// Which properties have a column of their own.
#[derive(Debug, Subcommand)]
pub(super) enum Properties {
    /// Which properties are promoted, how far each is filled, and which others would be worth it
    List,
    /// Give a property a column of its own; rows from before are filled in the background
    Promote {
        /// The property's name
        key: String,
    },
    /// Take the column away again
    Demote {
        /// The property's name
        key: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Trace {
    /// The event's id: the one sent, or the one in capture's answer
    pub event_id: String,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct Tail {
    /// Only events with this name
    #[arg(long)]
    pub event: Option<String>,
    /// Only events of this person
    #[arg(long)]
    pub distinct_id: Option<String>,
    /// Begin with this many events that are there already
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub last: u32,
    /// Print those and end
    #[arg(long)]
    pub no_follow: bool,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct Generate {
    /// Events a second; without it, with --events, as fast as they are taken
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// For this long [default: 10, unless --events is given]
    #[arg(long, conflicts_with = "events", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// This many events, duplicates and invalid ones included
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: Option<u64>,
    /// People to choose from
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub people: u32,
    /// Spread the events over this many days before now; without it they happen now
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days_back: Option<u32>,
    /// When the last event happens (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
    /// Share of events that are sent again, such as 1%
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    pub duplicates: Share,
    /// Share of events that break a rule and shall be rejected
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    pub invalid: Share,
    /// Share of events that happened an hour to three days before
    #[arg(long, value_name = "SHARE", default_value = "0%")]
    pub late: Share,
    /// Same seed, same events and ids; with --until the same times too [default: a new one each time, told at the end]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Connections that send side by side
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// Most events in one request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub batch: u32,
    /// Give a batch up after this many seconds of 503 or no answer
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub patience: u64,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Subcommand)]
pub(super) enum Engine {
    /// Get the pinned engine through npm, its integrity checked; nothing to do if it is there
    Install,
    /// Print where it is; exit 1 if it is not installed
    Path,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every effective value and where it came from; secrets are ***
    Print,
    /// Check the configuration and do nothing else; exit 2 if it is wrong
    Check,
    /// Print the reference: every key with its default, unit, limits and reason
    Reference,
}

#[derive(Debug, Subcommand)]
pub(super) enum Dlq {
    /// Count dead letters by topic, reason and status
    Stats(DlqStats),
    /// List dead letters, newest first
    List(DlqList),
    /// Show one dead letter whole
    Show(DlqShow),
    /// Write dead letters to their topic again; safe to run twice
    Replay(DlqReplay),
    /// Give dead letters up for good
    Discard(DlqDiscard),
}

/// Which dead letters to show.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct DlqFilter {
    #[command(flatten)]
    pub selection: Selection,
    /// Only with this status: open, replayed or discarded
    #[arg(long, value_parser = ["open", "replayed", "discarded"], hide_possible_values = true, help_heading = "Selection")]
    pub status: Option<String>,
    /// Only of this project (id); default: of all, or of the API key's
    #[arg(long, value_name = "ID", help_heading = "Selection")]
    pub project: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct DlqStats {
    #[command(flatten)]
    pub filter: DlqFilter,
    #[command(flatten)]
    pub remote: Remote,
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Selection {
    /// Only with this reason, such as invalid_field
    #[arg(long, value_name = "KIND", help_heading = "Selection")]
    pub error_kind: Option<String>,
    /// Only those refused in this topic
    #[arg(long, help_heading = "Selection")]
    pub topic: Option<String>,
    /// Only those refused at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Selection")]
    pub since: Option<Timestamp>,
    /// Only those refused before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Selection")]
    pub until: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(super) struct DlqList {
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Most to list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct DlqShow {
    /// As `dlq list` shows it: topic-partition-offset, such as events-0-17
    pub id: String,
    #[command(flatten)]
    pub remote: Remote,
}

/// Which dead letters to act on, and how.
#[derive(Debug, Args)]
pub(super) struct DlqWork {
    /// These, as `dlq list` shows them
    #[arg(required_unless_present_any = ["error_kind", "topic", "since", "until", "all"])]
    pub ids: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with_all = ["ids", "error_kind", "topic", "since", "until"], help_heading = "Selection")]
    pub all: bool,
    #[command(flatten)]
    pub selection: Selection,
    /// Count what would happen, show samples, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Most to act on
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub max: Option<u64>,
    /// Start the job and do not wait for its end
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct DlqReplay {
    #[command(flatten)]
    pub work: DlqWork,
    /// JSON Merge Patch of each event, such as '{"distinct_id":"unknown"}'
    #[arg(long, value_name = "JSON")]
    pub fix: Option<String>,
    /// Also those that were replayed or discarded before
    #[arg(long)]
    pub again: bool,
    /// Most a second
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct DlqDiscard {
    #[command(flatten)]
    pub work: DlqWork,
    /// Why they may go; kept and logged
    #[arg(long)]
    pub reason: String,
}

/// A share of a whole, written `1%` or `0.01`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
        match number.trim().parse::<f64>() {
            Ok(number) if (0.0..=unit).contains(&number) => Ok(Self(number / unit)),
            _ => Err("write a share as 1% or 0.01, between 0% and 100%".to_owned()),
        }
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("write a number of events a second between 0.001 and 10000000".to_owned()),
    }
}
