//! People: how they register, log in and stay logged in, and what they may do.
//!
//! A login begins a session and answers two tokens. The access token (a JWT) says who it is for `auth.access_ttl`; the
//! refresh token (kept as SHA-256) is good once, for the next pair. A refresh token that comes a second time ends its
//! session. What a session may do is remembered as keys are ([`super::keys`]): a session that ends here stops at once,
//! elsewhere within `auth.key_cache_ttl`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};

use super::limits::LoginLimits;
use super::password::Passwords;
use super::secret::{KeyDigest, new_invitation, new_password, new_refresh_token};
use super::tokens::Tokens;
use super::{AuthError, Denied, NamedEnvironment};
use crate::config::{self, Registration};
use crate::event::{Clock, IdSource, ProjectId, Timestamp};
use crate::meta::{
    Actor, ActorKind, Invitation, Member, Meta, MetaError, NewInvitation, NewMember, NewUser, Role, Rotation,
    SessionEnd, User,
};

/// Memberships of one person that are looked at; more projects than this need the operator.
const MEMBERSHIPS_MAX: u64 = 1000;

/// A person behind a request.
#[derive(Clone, Debug)]
pub struct Person {
    pub user_id: Arc<str>,
    pub email: Arc<str>,
    pub session_id: Arc<str>,
    /// May do everything in every project.
    pub is_admin: bool,
}

/// A project that a person is a member of.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub project: ProjectId,
    pub name: Arc<str>,
    pub time_zone: Arc<str>,
    pub role: Role,
    pub environments: Arc<[NamedEnvironment]>,
}

/// A session as the database had it at `checked_at`.
#[derive(Debug)]
pub(super) struct Known {
    pub person: Person,
    pub memberships: Vec<Membership>,
    ended: bool,
    expires_at: Timestamp,
    checked_at: Timestamp,
}

/// What a login answers.
#[derive(Debug)]
pub struct TokenPair {
    pub access_token: SecretString,
    pub refresh_token: SecretString,
    pub user: User,
}

/// Someone who wants an account.
pub struct Registrant<'a> {
    pub email: &'a str,
    pub name: &'a str,
    pub password: &'a SecretString,
    pub invitation: Option<&'a SecretString>,
}

/// The people of the installation.
pub(super) struct People {
    meta: Meta,
    config: config::Auth,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    pub passwords: Passwords,
    pub tokens: Tokens,
    limits: LoginLimits,
    sessions: Sessions,
}

/// What is remembered of sessions.
struct Sessions {
    known: Cache<Arc<str>, Arc<Known>>,
    /// How often something remembered was said to be wrong.
    forgotten: AtomicU64,
}

impl Sessions {
    /// To be called before the database is asked for what [`Sessions::remember`] is given.
    fn begin(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    /// Remembers what was read, unless something was forgotten since `begun`: it may have been read just before it
    /// changed, and must not bring a session back.
    fn remember(&self, session: &str, known: Arc<Known>, begun: u64) {
        self.known.insert(session.into(), known);
        // After the insert, so that either this sees that something was forgotten, or that takes the insert away.
        if self.forgotten.load(Ordering::SeqCst) != begun {
            self.known.invalidate(session);
        }
    }

    fn forget(&self, session: &str) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate(session);
    }

    fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate_all();
    }
}

impl People {
    pub(super) fn new(
        meta: &Meta,
        config: &config::Auth,
        clock: &Arc<dyn Clock>,
        ids: &Arc<dyn IdSource>,
    ) -> Result<Self, (&'static str, String)> {
        let passwords = Passwords::new(config, ids.clone());
        let lasting = config.key_cache_ttl.max(config.stale_key_ttl).saturating_mul(2);
        let lasting = lasting.clamp(std::time::Duration::from_secs(1), super::cache::LONGEST);
        Ok(Self {
            passwords: passwords.map_err(|error| ("auth.password_memory", error.to_string()))?,
            tokens: Tokens::new(meta, config, clock, ids)?,
            limits: LoginLimits::new(config, clock, &**ids),
            sessions: Sessions {
                known: Cache::builder()
                    .max_capacity(config.key_cache_entries_max)
                    .time_to_live(lasting)
                    .build(),
                forgotten: AtomicU64::new(0),
            },
            meta: meta.clone(),
            config: config.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
        })
    }

    /// Makes an account and logs it in, where `auth.registration` lets it.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(super) async fn register(
        &self,
        who: &Registrant<'_>,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, AuthError> {
        self.limits.address(address)?;
        let invitation = who.invitation.map(|token| digest(token).to_hex());
        match (self.config.registration, &invitation) {
            (Registration::Closed, _) => return Err(AuthError::RegistrationClosed),
            (Registration::Invite, None) => return Err(AuthError::InvitationNeeded),
            // Looked at before the password is hashed: a guess shall not cost us what a hash costs.
            (_, Some(sha256)) if !self.meta.invitations().is_good(sha256, who.email).await? => {
                return Err(AuthError::BadInvitation);
            }
            _ => {}
        }
        let new = NewUser {
            email: who.email,
            name: who.name,
            password_hash: self.passwords.hash(who.password).await?,
            is_admin: false,
            member: None,
            invitation: invitation.as_deref(),
        };
        let user = match self.meta.users().create(new, self.config.users_max).await {
            Err(MetaError::Missing("the invitation")) => return Err(AuthError::BadInvitation),
            made => made?,
        };
        tracing::info!(user_id = user.id, "a person registered");
        self.begin_session(user).await
    }

    /// Makes an account in the name of an administrator; without a password it gets one.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(super) async fn create(
        &self,
        meta: &Meta,
        who: &Registrant<'_>,
        is_admin: bool,
        member: Option<(&ProjectId, Role)>,
    ) -> Result<User, AuthError> {
        let new = NewUser {
            email: who.email,
            name: who.name,
            password_hash: self.passwords.hash(who.password).await?,
            is_admin,
            member: member.map(|(project, role)| NewMember { project, role }),
            invitation: None,
        };
        Ok(meta.users().create(new, self.config.users_max).await?)
    }

    /// A password nobody has.
    pub(super) fn new_password(&self) -> SecretString {
        new_password(&*self.ids)
    }

    /// Begins a session. An account that does not exist takes as long and is answered the same as a wrong password.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(super) async fn login(
        &self,
        email: &str,
        password: &SecretString,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, AuthError> {
        self.limits.address(address)?;
        self.limits.account(email)?;
        let user = self.meta.users().find_by_email(email).await?;
        let kept = user.as_ref().map(|user| user.password_hash.clone());
        let right = self.passwords.verify(password, kept).await?;
        match user.filter(|user| right && user.disabled_at.is_none()) {
            Some(user) => self.begin_session(user).await,
            None => Err(AuthError::BadLogin),
        }
    }

    async fn begin_session(&self, user: User) -> Result<TokenPair, AuthError> {
        let (signer, refresh_token) = (self.tokens.signer().await?, new_refresh_token(&*self.ids));
        let expires_at = self.clock.now().plus(self.config.refresh_ttl);
        let sha256 = digest(&refresh_token).to_hex();
        let max = self.config.sessions_max;
        let session = self.meta.sessions().create(&user.id, sha256, expires_at, max).await?;
        let access_token = self.tokens.sign(&signer, &user.id, &session.id)?.into();
        Ok(TokenPair { access_token, refresh_token, user })
    }

    /// The next pair of tokens for a refresh token, which is used up by it.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(super) async fn refresh(
        &self,
        refresh_token: &SecretString,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, AuthError> {
        // Before the token is used up: who is told to try again tries with the same one, and that must not look like reuse.
        let (signer, next) = (self.tokens.signer().await?, new_refresh_token(&*self.ids));
        let (old, new) = (digest(refresh_token).to_hex(), digest(&next).to_hex());
        match self.meta.sessions().rotate(&old, new).await? {
            Rotation::Rotated { session, user } => {
                let access_token = self.tokens.sign(&signer, &user.id, &session.id)?.into();
                Ok(TokenPair { access_token, refresh_token: next, user })
            }
            Rotation::Reused(session) => {
                self.forget(&session.id);
                tracing::warn!(
                    user_id = session.user_id,
                    session_id = session.id,
                    "a refresh token came again: its session is ended"
                );
                Err(AuthError::Reused)
            }
            Rotation::Ended => Err(AuthError::BadRefresh),
            Rotation::Unknown => {
                // Guesses count as tries; what a client with a good token does, does not.
                self.limits.address(address)?;
                Err(AuthError::BadRefresh)
            }
        }
    }

    /// Ends a session: its access token stops at once here.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn logout(&self, person: &Person) -> Result<(), AuthError> {
        self.meta.sessions().revoke(&person.session_id, SessionEnd::Logout).await?;
        self.forget(&person.session_id);
        Ok(())
    }

    /// Sets another password; every other session of the person ends.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(super) async fn change_password(
        &self,
        person: &Person,
        current: &SecretString,
        new: &SecretString,
    ) -> Result<(), AuthError> {
        self.limits.account(&person.email)?;
        let user = self.meta.users().find(&person.user_id).await?.ok_or(AuthError::BadLogin)?;
        if !self.passwords.verify(current, Some(user.password_hash)).await? {
            return Err(AuthError::BadLogin);
        }
        let hash = self.passwords.hash(new).await?;
        let meta = self.meta.by(person.actor());
        let keep = Some(&*person.session_id);
        meta.users().set_password(&person.user_id, hash, keep, SessionEnd::PasswordChanged).await?;
        self.forget_all();
        Ok(())
    }

    /// Sets another password in the name of an administrator; every session of the person ends. `None`: there is no
    /// such person.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(super) async fn reset_password(
        &self,
        meta: &Meta,
        user_id: &str,
        new: &SecretString,
    ) -> Result<Option<User>, AuthError> {
        let hash = self.passwords.hash(new).await?;
        let user = meta.users().set_password(user_id, hash, None, SessionEnd::PasswordReset).await?;
        self.forget_all();
        Ok(user)
    }

    /// Lets a person in no more, or in again. `None`: there is no such person.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn set_disabled(
        &self,
        meta: &Meta,
        user_id: &str,
        disabled: bool,
    ) -> Result<Option<User>, AuthError> {
        let user = meta.users().set_disabled(user_id, disabled).await?;
        self.forget_all();
        Ok(user)
    }

    /// Makes an invitation, and the one copy of its token.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub(super) async fn invite(
        &self,
        meta: &Meta,
        project: &ProjectId,
        email: &str,
        role: Role,
    ) -> Result<(Invitation, SecretString), AuthError> {
        let token = new_invitation(&*self.ids);
        let new = NewInvitation {
            email,
            role,
            sha256: digest(&token).to_hex(),
            expires_at: self.clock.now().plus(self.config.invitation_ttl),
        };
        let made = meta.invitations().create(project, new, self.config.members_max).await?;
        Ok((made, token))
    }

    /// Who has this access token, as far as the session is good.
    ///
    /// # Errors
    /// It is no token of ours, has expired, or its session has ended; the database has to be asked and does not answer.
    pub(super) async fn identify(&self, token: &[u8]) -> Result<Arc<Known>, Denied> {
        let claims = self.tokens.read(token).await?.ok_or(Denied::Unknown)?;
        let now = self.clock.now();
        let expired = Timestamp::from_millis(claims.exp.saturating_mul(1000));
        if expired <= now {
            return Err(Denied::TokenExpired { at: expired });
        }
        let known = self.recall(&claims.sid, &claims.sub, now).await?;
        if known.ended || known.expires_at <= now {
            return Err(Denied::SessionEnded);
        }
        Ok(known)
    }

    async fn recall(&self, session: &str, user: &str, now: Timestamp) -> Result<Arc<Known>, Denied> {
        let (remembered, begun) = (self.sessions.known.get(session), self.sessions.begin());
        let younger = |known: &&Arc<Known>, age| now >= known.checked_at && now.since(known.checked_at) < age;
        if let Some(known) = remembered.as_ref().filter(|known| younger(known, self.config.key_cache_ttl)) {
            return Ok(known.clone());
        }
        let looking = tokio::time::timeout(self.config.lookup_timeout, self.look_up(session, user, now));
        let found = looking.await.unwrap_or_else(|_| {
            Err(MetaError::Unavailable("a lookup took longer than auth.lookup_timeout".to_owned()))
        });
        match found {
            Ok(Some(known)) => {
                let known = Arc::new(known);
                self.sessions.remember(session, known.clone(), begun);
                Ok(known)
            }
            Ok(None) => Err(Denied::SessionEnded),
            Err(MetaError::Unavailable(why)) => {
                let believed = remembered.filter(|known| younger(&known, self.config.stale_key_ttl));
                believed.ok_or(Denied::Unavailable(MetaError::Unavailable(why)))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn look_up(&self, session: &str, user: &str, now: Timestamp) -> Result<Option<Known>, MetaError> {
        let Some(session) = self.meta.sessions().find(session).await? else { return Ok(None) };
        if session.user_id != user {
            return Ok(None);
        }
        let Some(user) = self.meta.users().find(&session.user_id).await? else { return Ok(None) };
        let members = self.meta.members().of_user(&user.id, MEMBERSHIPS_MAX).await?;
        let projects: Vec<ProjectId> = members.iter().map(|member| member.project_id.clone()).collect();
        let environments = self.meta.environments().of_projects(&projects).await?;
        let named = self.meta.projects().find_all(&projects).await?;
        let membership = |member: Member| {
            let own = environments.iter().filter(|one| one.project_id == member.project_id);
            let environments =
                own.map(|one| NamedEnvironment { id: one.id.clone(), name: one.name.as_str().into() });
            let environments: Vec<NamedEnvironment> = environments.collect();
            let own = named.iter().find(|one| one.id == member.project_id);
            Membership {
                name: own.map_or_else(|| member.project_id.as_str().into(), |one| one.name.as_str().into()),
                time_zone: own.map_or_else(|| "UTC".into(), |one| one.time_zone.as_str().into()),
                project: member.project_id,
                role: member.role,
                environments: environments.into(),
            }
        };
        let person = Person {
            user_id: user.id.into(),
            email: user.email.into(),
            session_id: session.id.into(),
            is_admin: user.is_admin,
        };
        Ok(Some(Known {
            person,
            memberships: members.into_iter().map(membership).collect(),
            ended: session.revoked_at.is_some() || user.disabled_at.is_some(),
            expires_at: session.expires_at,
            checked_at: now,
        }))
    }

    fn forget(&self, session: &str) {
        self.sessions.forget(session);
    }

    /// What was remembered of sessions may be wrong: the database is asked again.
    pub(super) fn forget_all(&self) {
        self.sessions.forget_all();
    }
}

impl Person {
    /// The person, for the audit trail.
    pub fn actor(&self) -> Actor {
        Actor::new(ActorKind::Person, self.user_id.clone(), self.email.clone())
    }
}

pub(super) fn digest(token: &SecretString) -> KeyDigest {
    KeyDigest::of(token.expose_secret().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Arc<Known> {
        let text: Arc<str> = "ann".into();
        let person = Person { user_id: text.clone(), email: text.clone(), session_id: text, is_admin: false };
        let (expires_at, checked_at) = (Timestamp::EPOCH, Timestamp::EPOCH);
        Arc::new(Known { person, memberships: Vec::new(), ended: false, expires_at, checked_at })
    }

    #[test]
    fn a_lookup_that_is_slower_than_an_end_does_not_bring_the_session_back() {
        let sessions = Sessions { known: Cache::new(10), forgotten: AtomicU64::new(0) };
        let begun = sessions.begin();
        sessions.remember("one", known(), begun);
        assert!(sessions.known.get("one").is_some());
        let forgets: [fn(&Sessions); 2] = [|sessions| sessions.forget("one"), Sessions::forget_all];
        for forget in forgets {
            // The row is read, the session ends, and only then what was read arrives.
            let begun = sessions.begin();
            forget(&sessions);
            sessions.remember("one", known(), begun);
            assert!(sessions.known.get("one").is_none());
            sessions.remember("one", known(), sessions.begin());
            assert!(sessions.known.get("one").is_some(), "what is read afterwards is remembered");
        }
    }
}
