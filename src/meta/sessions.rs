//! Logins, and the refresh tokens that come of each (a family): every refresh uses one up and makes the next.

use sea_orm::entity::prelude::*;
use sea_orm::{ActiveValue, ConnectionTrait, PaginatorTrait, QueryOrder, QuerySelect};
use serde_json::json;

use super::{AuditAction, Meta, MetaError, User, audit, users};
use crate::event::Timestamp;

mod tokens {
    //! The table of refresh tokens.

    use sea_orm::entity::prelude::*;

    use crate::event::Timestamp;

    #[derive(Clone, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "refresh_tokens")]
    pub(super) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub sha256: String,
        pub session_id: String,
        pub used_at: Option<Timestamp>,
        pub created_at: Timestamp,
        pub updated_at: Timestamp,
    }

    // By hand, so that no log shows the digest.
    impl std::fmt::Debug for Model {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("RefreshToken").field("session_id", &self.session_id).finish_non_exhaustive()
        }
    }

    #[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
    pub(super) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Refresh tokens of one session, which are all kept to recognise their reuse: one every 15 minutes for a hundred days.
const TOKENS_MAX: u64 = 10_000;

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    Logout,
    /// A refresh token that was used up came again: somebody has a copy.
    Reuse,
    PasswordChanged,
    PasswordReset,
    Disabled,
    /// There were more than `auth.sessions_max`.
    Replaced,
    /// It was refreshed 10,000 times.
    WornOut,
}

impl SessionEnd {
    /// Its stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Reuse => "reuse",
            Self::PasswordChanged => "password_changed",
            Self::PasswordReset => "password_reset",
            Self::Disabled => "disabled",
            Self::Replaced => "replaced",
            Self::WornOut => "worn_out",
        }
    }
}

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "sessions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub user_id: String,
    pub expires_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
    pub revoked_as: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A login.
pub type Session = Model;

/// What became of a refresh token.
#[derive(Clone, Debug)]
pub enum Rotation {
    /// It was used up, and the next one stands in its place.
    Rotated { session: Session, user: User },
    /// It was used up before: the session is revoked now.
    Reused(Session),
    /// Its session was revoked or has expired, or its person is let in no more.
    Ended,
    /// There is no such token.
    Unknown,
}

/// The finders and writers of sessions.
pub struct Sessions<'a>(pub(super) &'a Meta);

impl Sessions<'_> {
    /// # Errors
    /// The database does not answer.
    pub async fn find(&self, id: &str) -> Result<Option<Session>, MetaError> {
        self.0.track(Entity::find_by_id(id).one(self.0.connection()).await)
    }

    /// Begins a session with its first refresh token. The oldest go when a person has more than `max`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn create(
        &self,
        user_id: &str,
        refresh_sha256: String,
        expires_at: Timestamp,
        max: u64,
    ) -> Result<Session, MetaError> {
        let now = self.0.now();
        let made = Model {
            id: self.0.new_id("ses_", now),
            user_id: user_id.to_owned(),
            expires_at,
            revoked_at: None,
            revoked_as: None,
            created_at: now,
            updated_at: now,
        };
        let transaction = self.0.begin_write().await?;
        let written = async {
            let row = ActiveModel {
                id: ActiveValue::Set(made.id.clone()),
                user_id: ActiveValue::Set(made.user_id.clone()),
                expires_at: ActiveValue::Set(expires_at),
                revoked_at: ActiveValue::Set(None),
                revoked_as: ActiveValue::Set(None),
                created_at: ActiveValue::Set(now),
                updated_at: ActiveValue::Set(now),
            };
            Entity::insert(row).exec_without_returning(&transaction).await?;
            insert_token(&transaction, refresh_sha256, &made.id, now).await?;
            users::note_login(&transaction, user_id, now).await?;
            let kept = live(user_id, now)
                .order_by_desc(Column::CreatedAt)
                .order_by_desc(Column::Id)
                .offset(max)
                .limit(max.max(1))
                .all(&transaction)
                .await?;
            let old: Vec<String> = kept.into_iter().map(|session| session.id).collect();
            if !old.is_empty() {
                let update = ending(SessionEnd::Replaced, now).filter(Column::Id.is_in(old));
                update.exec(&transaction).await?;
            }
            Ok::<_, MetaError>(())
        };
        self.0.track(written.await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(made)
    }

    /// Uses a refresh token up and puts the next one in its place. One that was used up before ends its session:
    /// either the client or a thief has an old copy, and nobody can tell which. Whose session it is is read in the same
    /// transaction: a token is not used up for an answer that cannot be given.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rotate(&self, sha256: &str, next_sha256: String) -> Result<Rotation, MetaError> {
        let transaction = self.0.begin_write().await?;
        let rotation = self.0.track(rotate(self.0, &transaction, sha256, next_sha256).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(rotation)
    }

    /// Ends a session; one that has ended keeps its first end.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn revoke(&self, id: &str, end: SessionEnd) -> Result<(), MetaError> {
        let update = ending(end, self.0.now()).filter(Column::Id.eq(id));
        self.0.track(update.exec(self.0.connection()).await)?;
        Ok(())
    }

    /// Deletes sessions of everybody, with their tokens, that expired or were revoked before this time; answers how
    /// many.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn delete_ended(&self, before: Timestamp) -> Result<u64, MetaError> {
        let over =
            || sea_orm::Condition::any().add(Column::ExpiresAt.lt(before)).add(Column::RevokedAt.lt(before));
        let transaction = self.0.begin_write().await?;
        let ended =
            sea_orm::sea_query::Query::select().column(Column::Id).from(Entity).cond_where(over()).to_owned();
        let tokens = tokens::Entity::delete_many().filter(tokens::Column::SessionId.in_subquery(ended));
        self.0.track(tokens.exec(&transaction).await)?;
        let gone = self.0.track(Entity::delete_many().filter(over()).exec(&transaction).await)?;
        self.0.track(super::commit(transaction).await)?;
        Ok(gone.rows_affected)
    }
}

fn live(user_id: &str, now: Timestamp) -> Select<Entity> {
    Entity::find()
        .filter(Column::UserId.eq(user_id))
        .filter(Column::RevokedAt.is_null())
        .filter(Column::ExpiresAt.gt(now))
}

fn ending(end: SessionEnd, now: Timestamp) -> sea_orm::UpdateMany<Entity> {
    Entity::update_many()
        .col_expr(Column::RevokedAt, Expr::value(now))
        .col_expr(Column::RevokedAs, Expr::value(end.as_str()))
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .filter(Column::RevokedAt.is_null())
}

/// Ends a person's sessions, all but `keep`, inside the caller's transaction.
pub(super) async fn revoke_all(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    user_id: &str,
    keep: Option<&str>,
    end: SessionEnd,
) -> Result<(), MetaError> {
    let mut update = ending(end, meta.now()).filter(Column::UserId.eq(user_id));
    if let Some(keep) = keep {
        update = update.filter(Column::Id.ne(keep));
    }
    update.exec(transaction).await?;
    Ok(())
}

async fn insert_token(
    transaction: &impl ConnectionTrait,
    sha256: String,
    session_id: &str,
    now: Timestamp,
) -> Result<(), MetaError> {
    let row = tokens::ActiveModel {
        sha256: ActiveValue::Set(sha256),
        session_id: ActiveValue::Set(session_id.to_owned()),
        used_at: ActiveValue::Set(None),
        created_at: ActiveValue::Set(now),
        updated_at: ActiveValue::Set(now),
    };
    tokens::Entity::insert(row).exec_without_returning(transaction).await?;
    Ok(())
}

async fn rotate(
    meta: &Meta,
    transaction: &impl ConnectionTrait,
    sha256: &str,
    next_sha256: String,
) -> Result<Rotation, MetaError> {
    let now = meta.now();
    let Some(token) = tokens::Entity::find_by_id(sha256).one(transaction).await? else {
        return Ok(Rotation::Unknown);
    };
    let Some(session) = Entity::find_by_id(&token.session_id).one(transaction).await? else {
        return Ok(Rotation::Unknown);
    };
    if session.revoked_at.is_some() || session.expires_at <= now {
        return Ok(Rotation::Ended);
    }
    if token.used_at.is_some() {
        ending(SessionEnd::Reuse, now).filter(Column::Id.eq(&session.id)).exec(transaction).await?;
        let facts = json!({ "session_id": session.id });
        audit::record(meta, transaction, None, AuditAction::TokenReused, &session.user_id, facts).await?;
        return Ok(Rotation::Reused(session));
    }
    let user = users::Entity::find_by_id(&session.user_id).one(transaction).await?;
    let Some(user) = user.filter(|user| user.disabled_at.is_none()) else { return Ok(Rotation::Ended) };
    let of_session = tokens::Entity::find().filter(tokens::Column::SessionId.eq(&session.id));
    if of_session.count(transaction).await? >= TOKENS_MAX {
        ending(SessionEnd::WornOut, now).filter(Column::Id.eq(&session.id)).exec(transaction).await?;
        return Ok(Rotation::Ended);
    }
    tokens::Entity::update_many()
        .col_expr(tokens::Column::UsedAt, Expr::value(now))
        .col_expr(tokens::Column::UpdatedAt, Expr::value(now))
        .filter(tokens::Column::Sha256.eq(sha256))
        .exec(transaction)
        .await?;
    insert_token(transaction, next_sha256, &session.id, now).await?;
    Ok(Rotation::Rotated { session, user })
}
