//! Commands about people, members and what was done.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Users {
    /// Create an account; without --password-file a password is made and shown this once
    Create {
        /// E-mail address to log in with
        email: String,
        /// What to call the person
        #[arg(long)]
        name: Option<String>,
        /// May do everything in every project
        #[arg(long)]
        admin: bool,
        /// Make the person a member of this project (id or name)
        #[arg(long, requires = "role")]
        project: Option<String>,
        /// Role in that project: owner, editor or viewer
        #[arg(long, requires = "project", value_parser = ["owner", "editor", "viewer"], hide_possible_values = true)]
        role: Option<String>,
        /// Read the password from this file
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// List accounts
    List,
    /// Set another password and end every session; without --password-file one is made and shown this once
    ResetPassword {
        /// E-mail address or id
        user: String,
        /// Read the password from this file
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Let a person in no more, and end every session
    Disable {
        /// E-mail address or id
        user: String,
    },
    /// Let a person in again
    Enable {
        /// E-mail address or id
        user: String,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Members {
    /// List a project's members
    List {
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// Make somebody who has an account a member
    Add {
        /// E-mail address
        email: String,
        /// owner, editor or viewer
        #[arg(long, value_parser = ["owner", "editor", "viewer"], hide_possible_values = true)]
        role: String,
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// Give a member another role
    Change {
        /// E-mail address or id
        user: String,
        /// owner, editor or viewer
        #[arg(long, value_parser = ["owner", "editor", "viewer"], hide_possible_values = true)]
        role: String,
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// Take a member out
    Remove {
        /// E-mail address or id
        user: String,
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// Invite somebody who has no account; the invitation is shown this once
    Invite {
        /// E-mail address
        email: String,
        /// owner, editor or viewer
        #[arg(long, value_parser = ["owner", "editor", "viewer"], hide_possible_values = true)]
        role: String,
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// List a project's invitations
    Invitations {
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
    /// Take an invitation back
    Uninvite {
        /// Id of the invitation, as `members invitations` shows it
        invitation: String,
        /// Id or name of the project
        #[arg(long, default_value = "default")]
        project: String,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SigningKeys {
    /// List what signs access tokens, by id
    List,
    /// Sign with another secret from now on; nobody is logged out
    Rotate,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AuditLog {
    /// Only of this project (id or name); default: the whole installation
    #[arg(long)]
    pub project: Option<String>,
    /// Most entries to list, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
}
