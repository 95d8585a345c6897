//! Sessions of browsers: begun with a token, known by a secret of their own, over when the token no longer admits to anything.
//!
//! A session's secret is 256 random bits, of which the store has the digest; it lives in memory and ends with the process. There is
//! a bounded number: the scope with the most sessions loses its oldest one to a new one.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime},
};

use crate::{Grants, Scope, Token, token};

/// Longest time that a session lasts.
pub const SESSION_MAX: Duration = Duration::from_hours(12);

/// Sessions of one scope.
pub const SESSIONS_PER_SCOPE_MAX: usize = 64;

/// Sessions in all.
pub const SESSIONS_MAX: usize = 4_096;

#[derive(Clone, Debug)]
struct Session {
    /// Identifies the token that it was begun with.
    token: String,
    scope: Scope,
    begun: u64,
    expires: SystemTime,
}

/// A session that was begun just now: the only time that its secret is known.
pub struct NewSession {
    secret: String,
    /// When it ends at the latest.
    pub expires: SystemTime,
}

impl NewSession {
    /// The secret, for its browser alone.
    pub fn expose(&self) -> &str {
        &self.secret
    }
}

/// Does not show the secret.
impl std::fmt::Debug for NewSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSession").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The sessions that there are.
#[derive(Debug, Default)]
pub struct Sessions {
    /// By the digest of their secret: a look-up's time shows nothing of a secret that is not known.
    open: BTreeMap<String, Session>,
    begun: u64,
}

impl Sessions {
    /// Begins a session with a token; `None` where the token admits to nothing.
    pub fn begin(&mut self, grants: &Grants, token: &str, now: SystemTime) -> io::Result<Option<NewSession>> {
        let Some(granted) = grants.token(token, now) else { return Ok(None) };
        self.open.retain(|_, session| session.holder(grants, now).is_some());
        while self.of(&granted.scope).count() >= SESSIONS_PER_SCOPE_MAX {
            self.end_oldest_of(&granted.scope.clone());
        }
        while self.open.len() >= SESSIONS_MAX {
            let Some(scope) = self.largest() else { break };
            self.end_oldest_of(&scope);
        }
        let latest = now.checked_add(SESSION_MAX).unwrap_or(now);
        let expires = granted.expires.map_or(latest, |expires| expires.min(latest));
        let secret = token::random()?;
        self.begun += 1;
        let session = Session {
            token: granted.sha256().to_owned(),
            scope: granted.scope.clone(),
            begun: self.begun,
            expires,
        };
        self.open.insert(token::digest(&secret), session);
        Ok(Some(NewSession { secret, expires }))
    }

    /// What the holder of a session's secret may read now.
    pub fn holder<'a>(&self, grants: &'a Grants, secret: &str, now: SystemTime) -> Option<&'a Scope> {
        self.open.get(&token::digest(secret))?.holder(grants, now)
    }

    /// Ends a session.
    pub fn end(&mut self, secret: &str) {
        self.open.remove(&token::digest(secret));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn of(&self, scope: &Scope) -> impl Iterator<Item = (&String, &Session)> {
        self.open.iter().filter(move |(_, session)| session.scope == *scope)
    }

    fn end_oldest_of(&mut self, scope: &Scope) {
        let oldest =
            self.of(scope).min_by_key(|(_, session)| session.begun).map(|(digest, _)| digest.clone());
        if let Some(oldest) = oldest {
            self.open.remove(&oldest);
        }
    }

    fn largest(&self) -> Option<Scope> {
        let mut counts = BTreeMap::<&Scope, usize>::new();
        for session in self.open.values() {
            *counts.entry(&session.scope).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(scope, _)| scope.clone())
    }
}

impl Session {
    /// What its token admits to now, which may have changed; `None` once the session or its token is over.
    fn holder<'a>(&self, grants: &'a Grants, now: SystemTime) -> Option<&'a Scope> {
        let token: &Token = grants.tokens.iter().find(|token| token.sha256() == self.token)?;
        (self.expires > now && !token.has_expired(now)).then_some(&token.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewToken;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn granted(name: &str, scope: Scope, expires: Option<Duration>) -> (NewToken, Grants) {
        let made = NewToken::make(name, scope, NOW, expires.map(|expires| NOW + expires)).expect("made");
        let mut grants = Grants::default();
        grants.add(made.token.clone()).expect("added");
        (made, grants)
    }

    fn acme() -> Scope {
        Scope::Tenant("acme".to_owned())
    }

    fn begin(sessions: &mut Sessions, grants: &Grants, token: &NewToken) -> NewSession {
        sessions.begin(grants, token.expose(), NOW).expect("random numbers").expect("a session")
    }

    #[test]
    fn a_session_admits_to_what_its_token_does_until_either_is_over() {
        let (token, mut grants) = granted("acme", acme(), Some(Duration::from_hours(1)));
        let mut sessions = Sessions::default();
        let session = begin(&mut sessions, &grants, &token);
        assert_eq!(session.expires, NOW + Duration::from_hours(1), "not beyond the token's");
        assert_eq!(sessions.holder(&grants, session.expose(), NOW), Some(&acme()));
        assert_eq!(sessions.holder(&grants, token.expose(), NOW), None, "a token is no session");
        assert_eq!(sessions.holder(&grants, session.expose(), session.expires), None);
        grants.revoke("acme").expect("revoked");
        assert_eq!(sessions.holder(&grants, session.expose(), NOW), None);
        let (lasting, grants) = granted("lasting", Scope::Operator, None);
        assert_eq!(begin(&mut sessions, &grants, &lasting).expires, NOW + SESSION_MAX);
        assert_eq!(sessions.len(), 1, "that of the revoked token has gone");
    }

    #[test]
    fn a_session_that_was_ended_admits_to_nothing() {
        let (token, grants) = granted("acme", acme(), None);
        let mut sessions = Sessions::default();
        let [first, second] = [(); 2].map(|()| begin(&mut sessions, &grants, &token));
        sessions.end(first.expose());
        assert_eq!(sessions.holder(&grants, first.expose(), NOW), None);
        assert_eq!(sessions.holder(&grants, second.expose(), NOW), Some(&acme()));
    }

    #[test]
    fn no_session_begins_with_what_is_no_token() {
        let (_, grants) = granted("acme", acme(), None);
        let begun = Sessions::default().begin(&grants, "porthole_0", NOW).expect("random numbers");
        assert!(begun.is_none());
    }

    #[test]
    fn a_scope_that_begins_too_many_loses_its_oldest_and_no_other_scope_does() {
        let (acme_token, mut grants) = granted("acme", acme(), None);
        let (rival, of_rival) = granted("rival", Scope::Tenant("rival".to_owned()), None);
        grants.add(of_rival.tokens[0].clone()).expect("added");
        let mut sessions = Sessions::default();
        let of_rival = begin(&mut sessions, &grants, &rival);
        let first = begin(&mut sessions, &grants, &acme_token);
        let second = begin(&mut sessions, &grants, &acme_token);
        for _ in 1..SESSIONS_PER_SCOPE_MAX {
            begin(&mut sessions, &grants, &acme_token);
        }
        assert_eq!(sessions.len(), SESSIONS_PER_SCOPE_MAX + 1);
        assert_eq!(sessions.holder(&grants, first.expose(), NOW), None);
        assert_eq!(sessions.holder(&grants, second.expose(), NOW), Some(&acme()));
        assert!(sessions.holder(&grants, of_rival.expose(), NOW).is_some());
    }
}
