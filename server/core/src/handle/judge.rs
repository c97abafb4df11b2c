//! Whether a request may be carried out: its token, its entity, its policies.

use std::sync::Arc;

use holdfast_policy::{Check, Decision, Operation as PolicyOperation, ResponseFilter};
use holdfast_sdk::{Caller, Error, Operation, Place, Result, TokenId};
use holdfast_storage::Key;

use super::Way;
use crate::audit::AuthFacts;
use crate::identity::Resolved;
use crate::layout::{MOUNTS, NamespaceId, ROOT, SYSTEM, TOKEN, TOKENS};
use crate::namespaces;
use crate::policies::{Compiled, system_time};
use crate::tokens::{self, Parent, Session, TokenEntry};
use crate::tx::Tx;
use crate::wrapping;

/// What was found out about a request before it is carried out.
pub(super) struct Authorised {
    pub(super) caller: Caller,
    pub(super) facts: AuthFacts,
    /// Records of tokens that the decision stands on, and as of which index.
    pub(super) stands_on: Vec<(Key, u64)>,
    /// The policies that decided, as of which index.
    pub(super) policies: Option<(Arc<Compiled>, u64)>,
    /// Whose token it is.
    pub(super) who: Option<Arc<Resolved>>,
    pub(super) pagination_limit: Option<u64>,
    /// Hides keys of a listing.
    pub(super) response_filter: Option<Arc<ResponseFilter>>,
    pub(super) counted: bool,
}

impl Authorised {
    /// What the transaction writes stands on the decision.
    pub(super) fn depend(&self, tx: &mut Tx) {
        for (key, index) in &self.stands_on {
            tx.depend_on(key.clone(), *index);
        }
        if let Some((policies, index)) = &self.policies {
            for key in policies.keys.iter().chain(self.who.iter().flat_map(|w| &w.keys)) {
                tx.depend_on(key.clone(), *index);
            }
        }
    }
}

impl Way<'_> {
    /// Whoever needs no token. A login is by somebody who has none yet; at `sys/` it is told whose token was sent along.
    pub(super) fn nobody(&self) -> Authorised {
        let sent_along = match self.mount {
            Some(mount) if mount.handler.is_system() && self.request.token.is_some() => {
                let view = self.store().view();
                let index = view.index();
                let mut tx = Tx::read_only(view, self.barrier()).cached(&self.open.opened);
                self.session(&mut tx, index, &mut Vec::new()).ok().flatten().map(|session| session.audit.clone())
            }
            _ => None,
        };
        Authorised {
            caller: Caller::default(),
            facts: AuthFacts { token: sent_along, allowed: true, ..AuthFacts::default() },
            stands_on: Vec::new(),
            policies: None,
            who: None,
            pagination_limit: None,
            response_filter: None,
            counted: true,
        }
    }

    /// The caller's token, from the cache or the store, with what the finding stands on.
    pub(super) fn session(
        &self,
        tx: &mut Tx,
        index: u64,
        stands_on: &mut Vec<(Key, u64)>,
    ) -> Result<Option<Arc<Session>>> {
        let Some(token) = &self.request.token else { return Ok(None) };
        let Some(id) = tokens::id_of(tx, token.expose())? else { return Ok(None) };
        let key = token_key(tx, &id)?;
        stands_on.push((key.clone().into(), index));
        let session = match self.open.sessions.get(&key) {
            Some(s) => s,
            None => {
                let Some(held) = tokens::read(tx, token.expose())? else { return Ok(None) };
                let session = Arc::new(Session::new(held, token.expose(), &self.open.audit));
                self.open.sessions.insert(&key, session.clone(), tx.index());
                session
            }
        };
        if session.entry.has_ended(self.now) || !session.entry.admits(self.request.remote) {
            return Ok(None);
        }
        if !self.has_its_mount(tx, id.namespace, &session.entry, index, stands_on)? {
            return Ok(None);
        }
        let mut parent = session.entry.parent();
        while let Some(id) = parent {
            let Some(above) = self.token_entry(tx, &id, index, stands_on)? else { return Ok(None) };
            match above.as_parent(self.now) {
                Parent::Lives if !self.has_its_mount(tx, id.namespace, &above, index, stands_on)? => return Ok(None),
                Parent::Lives => parent = above.parent(),
                Parent::LetsGo => break,
                Parent::HasEnded => return Ok(None),
            }
        }
        Ok(Some(session))
    }

    /// Whether the auth mount that gave a token is still there.
    fn has_its_mount(
        &self,
        tx: &mut Tx,
        namespace: NamespaceId,
        entry: &TokenEntry,
        index: u64,
        stands_on: &mut Vec<(Key, u64)>,
    ) -> Result<bool> {
        if let Some(uuid) = &entry.auth_mount {
            stands_on.push((tx.within(SYSTEM.of(namespace), |tx| tx.key(Place::Ordered(MOUNTS, uuid)))?.into(), index));
        }
        tokens::has_its_mount(tx, namespace, entry)
    }

    fn token_entry(
        &self,
        tx: &mut Tx,
        id: &TokenId,
        index: u64,
        stands_on: &mut Vec<(Key, u64)>,
    ) -> Result<Option<Arc<TokenEntry>>> {
        let key = token_key(tx, id)?;
        let entry = match self.open.tokens.get(&key) {
            Some(e) => Some(e),
            None => {
                let loaded = tokens::load(tx, id)?.map(Arc::new);
                if let Some(e) = &loaded {
                    self.open.tokens.insert(&key, e.clone(), tx.index());
                }
                loaded
            }
        };
        stands_on.push((key.into(), index));
        Ok(entry)
    }

    /// Token and policy. The operation becomes `create` where the engine says that nothing is there.
    pub(super) fn authorise(&self) -> (Operation, Result<Authorised, (AuthFacts, Error)>) {
        let mut operation = self.operation;
        let mut facts = AuthFacts::default();
        let authorised = self.judge(&mut operation, &mut facts);
        (operation, authorised.map_err(|e| (facts, e)))
    }

    fn judge(&self, operation: &mut Operation, facts: &mut AuthFacts) -> Result<Authorised> {
        let view = self.store().view();
        let index = view.index();
        let mut tx = Tx::read_only(view, self.barrier()).cached(&self.open.opened);
        let mut stands_on = Vec::with_capacity(4);
        if let Err(e) = wrapping::check(&mut tx, self.request, self.now) {
            facts.presented = self.request.token.as_ref().map(|t| t.expose().clone());
            return Err(e);
        }
        self.core.metrics.token_lookups.add(u64::from(self.request.token.is_some()));
        let session = match self.session(&mut tx, index, &mut stands_on) {
            Ok(Some(s)) => s,
            other => {
                facts.presented = self.request.token.as_ref().map(|t| t.expose().clone());
                return Err(other.err().unwrap_or(Error::PermissionDenied));
            }
        };
        self.flight.asks(&session);
        self.open.last_uses.of_token(&session, self.now);
        facts.token = Some(session.audit.clone());
        if session.entry.num_uses > 0
            && let Some(id) = &session.caller.token_id
        {
            facts.remaining_uses = Some(tokens::uses_left(&mut tx, id)?);
        }
        let of_token = session.caller.namespace;
        if of_token != ROOT {
            facts.policies_of = Some(namespaces::load(&mut tx, &of_token)?.ok_or(Error::PermissionDenied)?.id);
            stands_on.push((namespaces::key(&of_token).into(), index));
        }
        if self.space.uuid != ROOT && self.space.uuid != of_token {
            stands_on.extend(self.space.keys.iter().map(|key| (key.clone(), index)));
        }
        // Its policies and its entity are those of its own namespace, wherever it is used.
        tx.enter(SYSTEM.of(of_token));
        let who = match session.entry.entity_id.as_str() {
            "" => None,
            // The tokens of an entity that is gone or disabled are none.
            id => match self.open.identities.get(&mut tx, id)? {
                Some(who) if !who.entity.disabled => Some(who),
                _ => return Err(Error::PermissionDenied),
            },
        };
        facts.identity_policies = who.as_ref().map(|w| w.policies.clone()).unwrap_or_default();
        let time = self.core.policy_time();
        let union = self.open.policies.union(&mut tx, &session.policies, who.as_ref(), time)?;
        if *operation == Operation::Update
            && let (Some(mount), Some(found)) = (self.mount, self.found)
        {
            tx.enter(mount.scope);
            let call = self.call(&session.caller, *operation, found, None);
            if mount.handler.exists(found, &mut tx, &call)? == Some(false) {
                *operation = Operation::Create;
            }
        }
        let decision: Decision = union.acl.check(&Check {
            operation: policy_operation(*operation),
            path: &self.full_path(),
            parameters: Some(&self.request.data),
            wrap_ttl: self.request.wrap_ttl,
            root_protected: self.found.is_some_and(|f| f.root_protected),
            now: system_time(time),
        });
        facts.allowed = decision.allowed;
        facts.granting = decision.granting_policies.clone();
        if !decision.allowed {
            return Err(Error::PermissionDenied);
        }
        Ok(Authorised {
            caller: Caller { sudo: decision.sudo || decision.root, ..session.caller.clone() },
            facts: facts.clone(),
            stands_on,
            policies: Some((union, index)),
            who,
            pagination_limit: decision.pagination_limit,
            response_filter: decision.response_filter,
            counted: session.entry.num_uses == 0,
        })
    }

    pub(super) fn authorise_again(&self) -> Result<Authorised> {
        if self.found.is_some_and(|f| f.unauthenticated) {
            return Ok(self.nobody());
        }
        // A create may have become an update by somebody else's commit: the engine is asked anew.
        let way = Way { operation: self.request.operation, ..*self };
        way.authorise().1.map_err(|(_, e)| e)
    }
}

fn token_key(tx: &mut Tx, id: &TokenId) -> Result<Vec<u8>> {
    tx.within(TOKENS.of(id.namespace), |tx| tx.key(Place::Ordered(TOKEN, &id.own)))
}

fn policy_operation(o: Operation) -> PolicyOperation {
    match o {
        Operation::Read => PolicyOperation::Read,
        Operation::Create => PolicyOperation::Create,
        Operation::Update => PolicyOperation::Update,
        Operation::Patch => PolicyOperation::Patch,
        Operation::Delete => PolicyOperation::Delete,
        Operation::List => PolicyOperation::List,
        Operation::Scan => PolicyOperation::Scan,
    }
}
