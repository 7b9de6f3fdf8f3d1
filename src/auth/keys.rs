//! From a key to what it may do: memory first, the metadata database when memory is too old.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use super::cache::{Entry, KeyCache, Recall, Usage};
use super::limits::KeyLimit;
use super::metrics::Metrics;
use super::outage::Outage;
use super::people::{Known, Membership, People};
use super::secret::{KeyDigest, has_key_form};
use super::tokens::has_token_form;
use super::{
    Access, Denied, EnvironmentMismatch, InvalidAuth, NamedEnvironment, Permission, Permissions, static_keys,
};
use crate::config;
use crate::event::{Clock, IdSource, ProjectId, Scope, Timestamp};
use crate::lifecycle::{Policy, Tasks};
use crate::meta::{ApiKey, KeyUse, Meta, MetaError};

/// The scope of the operator where there is no default project: no row and no event is in it.
const NOWHERE: &str = "-";

/// What a request says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// The key or token as it was sent.
    pub token: Option<&'a [u8]>,
    /// `X-Project-ID`.
    pub project: Option<&'a str>,
    /// `X-Environment-ID`.
    pub environment: Option<&'a str>,
}

/// The keys that this process believes. Cheap to clone.
#[derive(Clone)]
pub struct Keys(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub meta: Meta,
    pub config: config::Auth,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn IdSource>,
    pub cache: KeyCache,
    tasks: Tasks,
    metrics: Metrics,
    static_keys: HashMap<KeyDigest, (Access, Option<KeyLimit>)>,
    pub people: People,
    operator: OnceLock<KeyDigest>,
    /// What a request without a key may do. Never changes once there is one.
    anonymous: OnceLock<Access>,
    outage: Outage,
}

/// What memory says of a request.
enum Answer {
    Known(Result<Access, Denied>),
    /// Nothing: the database has to be asked.
    Ask(Question),
}

enum Question {
    /// Which is the default project?
    Default,
    /// Where does the operator act?
    Operator,
    /// Who has this access token?
    Person,
    /// What has become of this key?
    Again(KeyDigest, Arc<Entry>, Timestamp),
    /// What is this key?
    Key(KeyDigest, Timestamp),
}

impl Keys {
    /// Reads `auth.static_keys` and begins to write, every `auth.last_used_interval`, when keys were last used.
    ///
    /// # Errors
    /// A setting that cannot be used, named with what would be valid.
    pub fn new(
        meta: Meta,
        config: &config::Auth,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        tasks: &Tasks,
    ) -> Result<Self, InvalidAuth> {
        let people = People::new(&meta, config, &clock, &ids)
            .map_err(|(setting, message)| InvalidAuth::Setting { setting, message })?;
        let static_keys = static_keys::read(&config.static_keys)?.into_iter();
        let limited = static_keys
            .map(|(digest, access)| (digest, (access, KeyLimit::new(config.key_rate_max, &clock))));
        let keys = Self(Arc::new(Inner {
            static_keys: limited.collect(),
            people,
            cache: KeyCache::new(config),
            config: config.clone(),
            metrics: Metrics::new(),
            operator: OnceLock::new(),
            anonymous: OnceLock::new(),
            outage: Outage::new(),
            tasks: tasks.clone(),
            meta,
            clock,
            ids,
        }));
        let writer = keys.clone();
        tasks.spawn("auth-last-used", Policy::Restart(Duration::from_secs(5)), move || {
            writer.clone().write_uses_until_stopped()
        });
        Ok(keys)
    }

    /// From now on the holder of this token may do everything on this process. The first token stays.
    pub fn set_operator_token(&self, token: &SecretString) {
        self.0.operator.get_or_init(|| KeyDigest::of(token.expose_secret().as_bytes()));
    }

    /// What a request may do. With a key that is remembered: no await, no lock, no allocation.
    ///
    /// `require_key` false lets a request without a key act in the default project's production environment, to
    /// ingest and to query. A wrong key is refused all the same.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn authorize(
        &self,
        request: Request<'_>,
        needed: Permission,
        require_key: bool,
    ) -> Result<Access, Denied> {
        let started = Instant::now();
        let outcome = match self.identify(request, needed, require_key).await {
            Ok(access) => check(access, request, needed),
            Err(denied) => Err(denied),
        };
        self.0.metrics.checked(&outcome, started.elapsed());
        outcome
    }

    /// What a request with any key at all may do, whichever project or environment it names: for
    /// `GET /api/environments`, with which a client repairs a stale id.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn authorize_any(&self, token: Option<&[u8]>, project: Option<&str>) -> Result<Access, Denied> {
        let started = Instant::now();
        let request = Request { token, project, ..Request::default() };
        let outcome = self.identify(request, Permission::Query, true).await;
        self.0.metrics.checked(&outcome, started.elapsed());
        outcome
    }

    async fn identify(
        &self,
        request: Request<'_>,
        needed: Permission,
        require_key: bool,
    ) -> Result<Access, Denied> {
        match self.recall(request, require_key) {
            Answer::Known(outcome) => outcome,
            // Boxed: what a request rarely does shall not make the future of every request large.
            Answer::Ask(question) => Box::pin(self.ask(question, request, needed)).await,
        }
    }

    /// What memory says of a request.
    fn recall(&self, request: Request<'_>, require_key: bool) -> Answer {
        let Some(token) = request.token else {
            return match self.0.anonymous.get() {
                _ if require_key => Answer::Known(Err(Denied::Missing)),
                Some(access) => Answer::Known(Ok(access.clone())),
                None => Answer::Ask(Question::Default),
            };
        };
        let digest = KeyDigest::of(token);
        if let Some((access, limit)) = self.0.static_keys.get(&digest) {
            let allowed = limit.as_ref().map_or(Ok(()), KeyLimit::check);
            let allowed = allowed.map_err(|wait| Denied::TooOften { wait });
            return Answer::Known(allowed.map(|()| access.clone()));
        }
        if self.0.operator.get() == Some(&digest) {
            return Answer::Ask(Question::Operator);
        }
        if has_token_form(token) {
            return Answer::Ask(Question::Person);
        }
        if !has_key_form(token) {
            return Answer::Known(Err(Denied::Unknown));
        }
        let now = self.0.clock.now();
        match self.0.cache.recall(&digest, now) {
            Recall::Fresh(entry) => {
                if entry.is_older(now, self.0.config.key_cache_ttl / 2) {
                    self.refresh_behind(digest, &entry);
                }
                Answer::Known(entry.access(now))
            }
            Recall::Unknown => Answer::Known(Err(Denied::Unknown)),
            Recall::Old(entry) => Answer::Ask(Question::Again(digest, entry, now)),
            Recall::Nothing => Answer::Ask(Question::Key(digest, now)),
        }
    }

    async fn ask(
        &self,
        question: Question,
        request: Request<'_>,
        needed: Permission,
    ) -> Result<Access, Denied> {
        match question {
            Question::Default => self.anonymous().await,
            Question::Operator => self.operator(request, needed).await,
            Question::Person => {
                let known = self.0.people.identify(request.token.unwrap_or_default()).await?;
                self.of_person(&known, request, needed).await
            }
            Question::Again(digest, entry, now) => self.check_again(digest, &entry, now).await?.access(now),
            Question::Key(digest, now) if self.0.outage.may_try() => {
                self.look_up(digest, None).await?.ok_or(Denied::Unknown)?.access(now)
            }
            Question::Key(..) => Err(MetaError::Unavailable("it did not answer just now".to_owned()).into()),
        }
    }

    /// The database has to be asked; what is remembered stands in while it does not answer.
    async fn check_again(
        &self,
        digest: KeyDigest,
        entry: &Arc<Entry>,
        now: Timestamp,
    ) -> Result<Arc<Entry>, Denied> {
        let believed = now.since(entry.checked_at) < self.0.config.stale_key_ttl;
        if believed && self.0.outage.is_on() {
            // Nobody waits for a database that is known to be down; one request a second has it asked.
            if self.0.outage.may_try() {
                self.refresh_behind(digest, entry);
            }
            return Ok(entry.clone());
        }
        match self.look_up(digest, Some(entry.usage.clone())).await {
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(Denied::Unknown),
            Err(MetaError::Unavailable(_)) if believed => Ok(entry.clone()),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the database again without keeping the request waiting.
    fn refresh_behind(&self, digest: KeyDigest, entry: &Arc<Entry>) {
        if !entry.begin_refresh() {
            return;
        }
        let (keys, entry) = (self.clone(), entry.clone());
        self.0.tasks.spawn_bounded(async move {
            if let Err(error) = keys.look_up(digest, Some(entry.usage.clone())).await {
                tracing::debug!(error = %error, "a key could not be checked again");
            }
            entry.end_refresh();
        });
    }

    /// Asks the database for a key and remembers the answer.
    async fn look_up(
        &self,
        digest: KeyDigest,
        usage: Option<Arc<Usage>>,
    ) -> Result<Option<Arc<Entry>>, MetaError> {
        let (now, begun) = (self.0.clock.now(), self.0.cache.begin());
        let found = match tokio::time::timeout(self.0.config.lookup_timeout, self.find(digest)).await {
            Ok(found) => found,
            Err(_) => Err(MetaError::Unavailable("a lookup took longer than auth.lookup_timeout".to_owned())),
        };
        match found {
            Err(error) => {
                if error.is_unavailable() {
                    self.0.outage.begin(&error);
                }
                Err(error)
            }
            Ok(None) => {
                self.0.outage.end();
                self.0.cache.remember_unknown(digest, now);
                Ok(None)
            }
            Ok(Some((key, access))) => {
                self.0.outage.end();
                let entry = Arc::new(self.entry(&key, access, now, usage));
                Ok(Some(self.0.cache.remember(digest, entry, begun)))
            }
        }
    }

    async fn find(&self, digest: KeyDigest) -> Result<Option<(ApiKey, Access)>, MetaError> {
        let Some(key) = self.0.meta.api_keys().find_by_sha256(&digest.to_hex()).await? else {
            return Ok(None);
        };
        // The index found it by its text; what lets a request in is this comparison.
        if KeyDigest::from_hex(&key.sha256) != Some(digest) {
            return Ok(None);
        }
        let environment = self.0.meta.environments().find(&key.project_id, &key.environment_id).await?;
        let name = environment.map_or_else(|| key.environment_id.to_string(), |environment| environment.name);
        let access = access_of(&key, &name);
        Ok(Some((key, access)))
    }

    async fn anonymous(&self) -> Result<Access, Denied> {
        let scope = self.0.meta.default_scope().await?.ok_or(Denied::NoDefault)?;
        let environment = self.0.meta.environments().find(&scope.project, &scope.environment).await?;
        let name = environment.ok_or(Denied::NoDefault)?.name;
        let permissions = [Permission::Ingest, Permission::Query].into_iter().collect();
        Ok(self.0.anonymous.get_or_init(|| Access::new(scope, &name, permissions)).clone())
    }

    /// A person acts in the project that the request says, or in the one there is to choose from.
    async fn of_person(
        &self,
        known: &Known,
        request: Request<'_>,
        needed: Permission,
    ) -> Result<Access, Denied> {
        let person = &known.person;
        let valid = || known.memberships.iter().map(|one| one.project.clone()).collect();
        let chosen = match (request.project, known.memberships.as_slice()) {
            (Some(given), own) => own.iter().find(|one| one.project.as_str() == given),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        if let Some(membership) = chosen {
            return in_project(membership, known, request);
        }
        if person.is_admin {
            return Ok(self.operator(request, needed).await?.with_person(person.clone()));
        }
        Err(match request.project {
            Some(given) => Denied::Project { given: given.chars().take(200).collect(), valid: valid() },
            None if known.memberships.is_empty() => Denied::NoProject,
            None => Denied::WhichProject { valid: valid() },
        })
    }

    /// The operator acts where the request says, else in the default project's production environment. What an admin
    /// does to the whole process (lag, topics, dead letters) needs no project, so it works without one.
    async fn operator(&self, request: Request<'_>, needed: Permission) -> Result<Access, Denied> {
        match self.operator_scope(request).await {
            Ok(access) => Ok(access),
            Err(Denied::NoDefault | Denied::Unavailable(_))
                if needed == Permission::Admin && request.project.is_none() =>
            {
                Ok(Access::operator(Scope::new(NOWHERE, NOWHERE), Arc::from([])))
            }
            Err(denied) => Err(denied),
        }
    }

    async fn operator_scope(&self, request: Request<'_>) -> Result<Access, Denied> {
        let default = self.0.meta.default_scope().await?;
        let project = match (request.project, &default) {
            (Some(given), _) => ProjectId::new(given),
            (None, Some(default)) => default.project.clone(),
            (None, None) => return Err(Denied::NoDefault),
        };
        let environments: Arc<[NamedEnvironment]> = self.environments(&project).await?.into();
        let wanted = match (request.environment, &default) {
            (Some(given), _) => environments.iter().find(|one| one.id.as_str() == given),
            (None, Some(default)) if default.project == project => {
                environments.iter().find(|one| one.id == default.environment)
            }
            (None, _) => environments.iter().find(|one| &*one.name == "production").or(environments.first()),
        };
        match (wanted, request.environment) {
            (Some(environment), _) => {
                let scope = Scope { project, environment: environment.id.clone() };
                Ok(Access::operator(scope, environments))
            }
            (None, _) if environments.is_empty() => Err(Denied::Project {
                given: project.to_string(),
                valid: default.map(|scope| scope.project).into_iter().collect(),
            }),
            (None, given) => {
                Err(EnvironmentMismatch::counted(given.unwrap_or_default(), environments).into())
            }
        }
    }

    /// The environments of a project by id and name.
    pub(super) async fn environments(&self, project: &ProjectId) -> Result<Vec<NamedEnvironment>, MetaError> {
        let rows = self.0.meta.environments().list(project).await?;
        Ok(rows.into_iter().map(|row| NamedEnvironment { id: row.id, name: row.name.into() }).collect())
    }

    pub(super) fn entry(
        &self,
        key: &ApiKey,
        access: Access,
        now: Timestamp,
        usage: Option<Arc<Usage>>,
    ) -> Entry {
        let usage = usage.unwrap_or_else(|| {
            let own = key.rate_max.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
            let limit = KeyLimit::new(own.unwrap_or(self.0.config.key_rate_max), &self.0.clock);
            Arc::new(Usage::new(key.project_id.clone(), Arc::from(key.id.as_str()), limit))
        });
        Entry::new(access, key.expires_at, key.revoked_at, now, usage)
    }

    async fn write_uses_until_stopped(self) -> anyhow::Result<()> {
        let stop = self.0.tasks.stop().soft_token().clone();
        while !stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(self.0.config.last_used_interval) => {}
                () = stop.cancelled() => {}
            }
            if let Err(error) = self.write_uses().await {
                tracing::debug!(error = %error, "when keys were last used could not be written");
            }
            if let Err(error) = self.clear().await {
                tracing::debug!(error = %error, "what has ended could not be deleted");
            }
        }
        Ok(())
    }

    /// Deletes what nobody needs any more: sessions that ended, secrets that retired, the oldest of the audit trail.
    async fn clear(&self) -> Result<(), MetaError> {
        let (meta, config, now) = (&self.0.meta, &self.0.config, self.0.clock.now());
        // A session that ended is kept for a while: its refresh token may still come, and is told from a guess.
        meta.sessions().delete_ended(now.minus(config.refresh_ttl)).await?;
        meta.signing_keys().delete_retired(now.minus(config.access_ttl).minus(config.key_cache_ttl)).await?;
        meta.audit_log().delete_old(now.minus(config.audit_keep)).await?;
        Ok(())
    }

    /// Writes when keys were last used, those used since the last time.
    pub(super) async fn write_uses(&self) -> Result<(), MetaError> {
        let usages = self.0.cache.unwritten_uses();
        let uses: Vec<KeyUse> = usages
            .iter()
            .filter_map(|usage| {
                let used = usage.unwritten()?;
                Some(KeyUse { project: usage.project.clone(), key_id: usage.key_id.to_string(), used })
            })
            .collect();
        self.0.meta.api_keys().touch(&uses).await?;
        for (usage, written) in usages.iter().zip(&uses) {
            usage.written(written.used);
        }
        Ok(())
    }
}

/// Holds what the request names and needs against what it may.
fn check(access: Access, request: Request<'_>, needed: Permission) -> Result<Access, Denied> {
    if !access.permissions.allow(needed) {
        return Err(Denied::Lacking { needed, has: access.permissions });
    }
    if let Some(given) =
        request.project.filter(|given| !access.operator && *given != access.scope.project.as_str())
    {
        let given = given.chars().take(200).collect();
        return Err(Denied::Project { given, valid: vec![access.scope.project] });
    }
    if let Some(given) = request.environment {
        access.check_environment(given)?;
    }
    Ok(access)
}

pub(super) fn access_of(key: &ApiKey, environment: &str) -> Access {
    let scope = Scope { project: key.project_id.clone(), environment: key.environment_id.clone() };
    Access::new(scope, environment, Permissions::from_column(&key.scopes)).with_key(&key.id)
}

/// A person in one of the projects there is a membership of.
fn in_project(membership: &Membership, known: &Known, request: Request<'_>) -> Result<Access, Denied> {
    let environments = &membership.environments;
    let wanted = match request.environment {
        Some(given) => environments.iter().find(|one| one.id.as_str() == given),
        None => environments.iter().find(|one| &*one.name == "production").or(environments.first()),
    };
    let Some(environment) = wanted else {
        let given = request.environment.unwrap_or_default();
        return Err(EnvironmentMismatch::counted(given, environments.clone()).into());
    };
    let scope = Scope { project: membership.project.clone(), environment: environment.id.clone() };
    Ok(Access::member(scope, membership.role, known.person.clone(), environments.clone()))
}
