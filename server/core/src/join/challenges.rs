//! The active node's side of joining: it makes challenges, gives the root key to whose answer is right, and lets it in.

use super::*;

impl Core {
    /// `sys/storage/raft/bootstrap/challenge`, at the active node.
    pub(crate) async fn challenge_route(self: &Arc<Self>, body: &[u8]) -> Answer {
        match self.make_challenge(body).await {
            Ok(map) => Answer::bare(200, &map),
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }

    /// The challenges that are open, with room for that of one node.
    fn has_room_for_a_challenge(&self, server_id: &str) -> Result<MutexGuard<'_, Challenges>, Refusal> {
        let mut challenges = lock(&self.joins.challenges);
        let now = self.clock.boot();
        challenges.retain(|_, asked| now.saturating_sub(asked.made) < ANSWER_WITHIN);
        match challenges.len() >= CHALLENGES && !challenges.contains_key(server_id) {
            true => Err(Refusal(503, "too many nodes want to join at once; try again".into())),
            false => Ok(challenges),
        }
    }

    async fn make_challenge(&self, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
        let bad = |text| Refusal(400, text);
        let body = strict_object(body).map_err(bad)?;
        let server_id = strict_text(&body, "server_id").map_err(bad)?;
        let token = Some(strict_text(&body, "join_token_id").map_err(bad)?).filter(|id| !id.is_empty());
        if server_id.is_empty() || server_id.len() > NAME_BYTES {
            return refuse("no server id provided");
        }
        let Some(open) = self.open() else { return Err(Refusal(503, "Vault is sealed".into())) };
        // Before a device is asked to do anything for somebody unknown.
        drop(self.has_room_for_a_challenge(&server_id)?);
        let Some(read) = self.lock_list().map_err(failed)? else { return Err(failed("there are no locks")) };
        let cluster_id = read.list.cluster_id;
        let key = Key::random(32).map_err(failed)?;
        let closed = match (self.has_device(), read.list.shares_lock(), &*open.shares_key.load()) {
            (true, ..) if let Some(id) = &token => {
                let token_key = self.join_token_key(&open, id)?;
                locks::lock_with_key(&key, &token_key, &cluster_id, (1, 1), 0, 0).map_err(failed)?
            }
            _ if token.is_some() => return refuse("join tokens are for clusters that are sealed by devices"),
            (false, Some(Lock { kind: LockKind::Shares { shares, threshold }, .. }), Some(shares_key)) => {
                locks::lock_with_key(&key, shares_key, &cluster_id, (*shares, *threshold), 0, 0).map_err(failed)?
            }
            (true, _, _) => self.close_challenge(&key, cluster_id).await?,
            _ => return Err(failed("this node has no key with which it could ask for proof")),
        };
        self.has_room_for_a_challenge(&server_id)?
            .insert(server_id, Asked { key, made: self.clock.boot(), token, given: None });
        let (count, threshold) = match closed.kind {
            LockKind::Shares { shares, threshold } => (shares, threshold),
            LockKind::Device { .. } => (1, 1),
        };
        let mut m = Map::new();
        m.insert("challenge".into(), in_base64(&closed)?.into());
        m.insert("cluster_id".into(), random::uuid_text(&cluster_id).into());
        let config = json!({"type": self.seal_type(), "secret_shares": count, "secret_threshold": threshold});
        m.insert("seal_config".into(), config);
        Ok(m)
    }

    /// `sys/storage/raft/bootstrap/root`, at the active node.
    pub(crate) async fn root_route(self: &Arc<Self>, body: &[u8]) -> Answer {
        match self.give_root(body) {
            Ok(map) => Answer::bare(200, &map),
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }

    /// Give the root key to a node that has shown the key of a join token; its lock is to come.
    fn give_root(&self, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
        let wanted: WantsRoot =
            serde_json::from_slice(body).map_err(|e| Refusal(400, format!("no answer to a challenge: {e}")))?;
        let Some(open) = self.open() else { return Err(Refusal(503, "Vault is sealed".into())) };
        let list = self.own_locks(&open)?;
        let mut challenges = lock(&self.joins.challenges);
        let now = self.clock.boot();
        let asked =
            challenges.get_mut(&wanted.server_id).filter(|asked| now.saturating_sub(asked.made) < ANSWER_WITHIN);
        let Some(Asked { key, token: Some(_), given, .. }) = asked else {
            return refuse("no challenge was made for this server id and a join token, or it is too old");
        };
        if !is_mac(key, ROOT, wanted.server_id.as_bytes(), &wanted.answer)? {
            // It counts once.
            challenges.remove(&wanted.server_id);
            return refuse("invalid answer given");
        }
        let present = open.root.load_full();
        let root = locks::lock_with_key(&present, key, &list.cluster_id, (1, 1), 0, 0).map_err(failed)?;
        *given = Some(present);
        tracing::warn!(node = %wanted.server_id, "a node that joins with a join token is given the root key");
        let mut m = Map::new();
        m.insert("root".into(), in_base64(&root)?.into());
        Ok(m)
    }

    /// `sys/storage/raft/bootstrap/answer`, at the active node.
    pub(crate) async fn answer_route(self: &Arc<Self>, body: &[u8]) -> Answer {
        match self.let_in(body).await {
            Ok(map) => Answer::bare(200, &map),
            Err(Refusal(status, text)) => Answer::error(status, &text),
        }
    }

    async fn let_in(&self, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
        let cluster = self.own_cluster()?;
        let proof: Proof =
            serde_json::from_slice(body).map_err(|e| Refusal(400, format!("no answer to a challenge: {e}")))?;
        let Proof { server_id, peer, answer, lock: own_lock, more_locks } = proof;
        // It counts once, right or wrong.
        let challenge = lock(&self.joins.challenges).remove(&server_id);
        let now = self.clock.boot();
        let Some(Asked { key, token, given, .. }) =
            challenge.filter(|asked| now.saturating_sub(asked.made) < ANSWER_WITHIN)
        else {
            return refuse("no challenge was made for this server id, or it is too old");
        };
        if !is_mac(&key, PROOF, &proven(&server_id, &peer, own_lock.as_ref(), &more_locks)?, &answer)? {
            return refuse("invalid answer given");
        }
        let level = self.feature_level();
        if peer.level.max(level::FIRST) < level {
            return refuse(feature_level::cannot_follow(peer.level, level));
        }
        let known = cluster.members().0.into_iter().find(|m| m.id == server_id);
        let change = match known {
            Some(m) if m.peer.key_hash != peer.key_hash => {
                return refuse(format!(
                    "a member called {server_id:?} is known by another key: remove it first, or give the new node a \
                     name of its own"
                ));
            }
            // Only who has no store joins.
            Some(m) if m.votes || cluster.progress().get(&server_id).is_some_and(|p| p.matched > 0) => {
                return refuse(format!(
                    "{server_id:?} is a member that has confirmed entries, and has lost its store: with an empty one it \
                     would stand for what it no longer knows. If the store is lost for good, let the others forget it \
                     (operator raft remove-peer {server_id}), then let it join anew"
                ));
            }
            Some(m) if m.peer == peer => None,
            Some(_) => Some(Change::Correct(server_id.clone(), peer)),
            None => Some(Change::Add(server_id.clone(), peer)),
        };
        match (&token, &own_lock) {
            (Some(token), Some(own_lock)) => {
                if more_locks.len() >= MOST_SEALS {
                    return refuse(format!("a node has at most {MOST_SEALS} seals"));
                }
                let decoded =
                    |lock: &String| STANDARD.decode(lock).map_err(|e| Refusal(400, format!("this is no lock: {e}")));
                let own_locks = std::iter::once(own_lock).chain(&more_locks).map(decoded);
                let own_locks = own_locks.collect::<Result<Vec<Vec<u8>>, Refusal>>()?;
                self.add_node_locks(&server_id, &own_locks, token, given).await?;
            }
            (None, None) => {}
            _ => return refuse("a join token and a lock of the node's own belong together"),
        }
        if let Some(change) = change {
            cluster.change(change).await.map_err(|e| match e {
                ChangeError::NotLeader => Refusal(503, "this node is no longer the active one; try again".into()),
                ChangeError::Refused(text) => Refusal(500, text),
            })?;
        }
        tracing::info!(node = %server_id, "a node has joined");
        let members: Vec<(String, Peer)> =
            cluster.members().0.into_iter().map(|Member { id, peer, .. }| (id, peer)).collect();
        let members = serde_json::to_string(&members).map_err(failed)?;
        let mac = STANDARD.encode(mac(&key, WELCOME, members.as_bytes())?.finalize().into_bytes());
        let mut m = Map::new();
        m.insert("members".into(), members.into());
        m.insert("mac".into(), mac.into());
        Ok(m)
    }
}
