//! The way of a request, from top to bottom. Whether it may go it is decided in `judge`, what it makes outside in `act`;
//! what never waits goes a shorter one, in `at_once`.

mod act;
mod at_once;
mod finish;
mod house;
mod judge;
mod limits;
mod login;
mod standing_by;
mod withdraw;

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use holdfast_hsm::memory::Secret;
use holdfast_sdk::{
    Call, Caller, Error, Found, Operation, Preparation, Prepared, Request, Response, Result, Timestamp, TokenType,
};
use holdfast_seal::Barrier;
use holdfast_storage::Store;

use self::house::House;
pub use self::house::is_of_root_alone;
use self::judge::Authorised;
pub use self::standing_by::Here;
use crate::audit::{self, AuthFacts, Pending, RequestFacts};
use crate::caught::caught;
use crate::failpoint::{failpoint, of_a_request};
use crate::in_flight::{Entered, Flight};
use crate::layout::CUBBYHOLE;
use crate::namespaces::Space;
use crate::router::{Handler, Mount, Router};
use crate::settings::AuditedHeaders;
use crate::tokens;
use crate::tx::{Effect, Made, Tx};
use crate::{Answer, Core, Open, cubbyhole, intents, jobs, leases, logins, moves, random, wrapping};

/// The lease would end with the token, before its answer is read.
const LAST_USE: &str =
    "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked.";

/// Where a request goes.
struct Located<'r> {
    mount: Option<&'r Arc<Mount>>,
    /// The path relative to the mount.
    path: &'r str,
    found: Option<Found>,
}

impl Router {
    fn locate<'r>(&'r self, request: &'r Request) -> Located<'r> {
        let located = self.find(&request.path);
        let mount = located.map(|(m, _)| m);
        let path = located.map_or("", |(_, at)| request.path.get(at..).unwrap_or("")).trim_start_matches('/');
        let found = mount.and_then(|m| m.handler.find(request.operation, path));
        Located { mount, path, found }
    }
}

/// A request on its way.
struct Way<'a> {
    core: &'a Arc<Core>,
    open: &'a Arc<Open>,
    flight: &'a Flight,
    space: &'a Space,
    request: &'a Request,
    mount: Option<&'a Arc<Mount>>,
    /// The path relative to the mount.
    path: &'a str,
    found: Option<&'a Found>,
    operation: Operation,
    now: Timestamp,
    /// The mount table was as found at this index or later.
    routed_at: u64,
}

/// What carrying a request out has come to.
struct Outcome {
    response: Response,
    effects: Vec<Effect>,
    /// Tokens and leases that began with it.
    made: Vec<Made>,
}

impl Outcome {
    /// Of what has changed nothing.
    fn of(response: Response) -> Outcome {
        Outcome { response, effects: Vec::new(), made: Vec::new() }
    }
}

/// A request that was taken up.
pub enum Begun {
    /// Handled, but for the audit lines that are on their way: [`Core::given`].
    Read(Answer, Pending),
    /// It runs to its end if it is polled to its end.
    Waits(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Core {
    /// Handle one request. It runs to its end whoever waits for it.
    pub async fn handle(self: &Arc<Self>, request: Request) -> Answer {
        match self.begin(request) {
            Begun::Read(answer, lines) => self.given(answer, lines).await,
            Begun::Waits(handling) => handling.await,
        }
    }

    /// Take a request up. What only reads and never waits is carried out here, without a future of its own.
    pub fn begin(self: &Arc<Self>, request: Request) -> Begun {
        let start = Instant::now();
        let Some(open) = self.open() else { return Begun::Read(self.sealed_answer(), Pending::default()) };
        let (request, house) = match self.housed(&open, request) {
            Ok(housed) => housed,
            Err((refused, lines)) => return Begun::Read(refused, lines),
        };
        let entered = self.enter(request);
        let headers = match self.limit(&open, &house, &entered.flight) {
            Ok(headers) => headers,
            Err(refused) => return Begun::Read(refused, Pending::default()),
        };
        match self.read_at_once(&open, &house, &entered.flight) {
            Some((mut answer, lines)) => {
                self.metrics.handled(start, answer.status, false);
                answer.headers.extend(headers);
                Begun::Read(answer, lines)
            }
            None => {
                let core = self.clone();
                Begun::Waits(Box::pin(of_a_request(async move {
                    let mut answer = core.handle_waiting(open, house, entered, start).await;
                    answer.headers.extend(headers);
                    answer
                })))
            }
        }
    }

    /// The answer, once its audit lines were taken.
    pub async fn given(&self, answer: Answer, lines: Pending) -> Answer {
        match audit::accepted(lines).await {
            Ok(()) => answer,
            Err(e) => {
                self.metrics.audit_response_failures.add(1);
                Answer::failure(&e)
            }
        }
    }

    async fn handle_waiting(
        self: &Arc<Self>,
        open: Arc<Open>,
        house: House,
        entered: Entered,
        start: Instant,
    ) -> Answer {
        failpoint!(self, "received");
        let (mut answer, effects) = self.serve(&open, &house, &entered.flight).await;
        let request = &entered.flight.request;
        if (request.operation.writes() || request.wrap_ttl.is_some()) && answer.status < 300 {
            answer.headers.extend(self.index_headers(&open));
        }
        let writes = request.operation.writes();
        drop(entered);
        if effects.contains(&Effect::NamespaceSealed) {
            open.ceremonies.forget_sealed(&open.barrier.load());
        }
        drop(open);
        self.metrics.handled(start, answer.status, writes);
        if effects.contains(&Effect::NamespaceSealed) {
            self.scrub().await;
        }
        if effects.contains(&Effect::Seal) {
            let core = self.clone();
            Box::pin(core.seal_now()).await;
        }
        if effects.contains(&Effect::StepDown) {
            Box::pin(self.step_down()).await;
        }
        answer
    }

    /// Whether a token is one that may ask.
    pub fn accepts(&self, token: &Secret<String>) -> bool {
        let Some(open) = self.open() else { return false };
        let mut tx = self.reader(&open);
        tokens::find_valid(&mut tx, token.expose(), self.clock.now()).is_ok_and(|t| t.is_some_and(|t| t.id.is_some()))
    }

    /// What should not happen from day to day is counted, so that somebody looks.
    fn count_root(&self, caller: &Caller) {
        if caller.root {
            self.metrics.by_root.add(1);
        }
    }

    async fn serve(self: &Arc<Self>, open: &Arc<Open>, house: &House, flight: &Flight) -> (Answer, Vec<Effect>) {
        let request = &flight.request;
        let (space, routed_at) = (house.space(open), house.routed_at);
        let Located { mount, path, found } = house.router.locate(request);
        let now = self.clock.now();

        let operation = request.operation;
        let headers = match open.audited_headers(self) {
            Ok(h) => h,
            Err(e) => return (Answer::failure(&e), Vec::new()),
        };
        let found = found.as_ref();
        let mut way = Way { core: self, open, flight, space, request, mount, path, found, operation, now, routed_at };
        let unauthenticated = found.is_some_and(|f| f.unauthenticated);
        // Whether a POST creates or updates is known to the engine alone; the policy needs it.
        let (operation, authorised) = if unauthenticated { (operation, Ok(way.nobody())) } else { way.authorise() };
        let (facts, refused) = match &authorised {
            Ok(a) => {
                self.count_root(&a.caller);
                (a.facts.clone(), None)
            }
            Err((facts, e)) => (facts.clone(), Some(e)),
        };
        way.operation = operation;
        let about = way.request_facts(&headers);
        let acts = found.is_some_and(|f| f.acts);
        let writes = operation.writes() || request.wrap_ttl.is_some() || acts;
        failpoint!(self, "authorised");

        let entry = open.audit.entry(&facts, &about);
        let mut pending = match entry.request(writes, now, refused) {
            Ok(p) => p,
            Err(e) => {
                self.metrics.audit_failures.add(1);
                return (Answer::failure(&e), Vec::new());
            }
        };
        if pending.is_on_its_way()
            && let Err(e) = audit::accepted(std::mem::take(&mut pending)).await
        {
            self.metrics.audit_failures.add(1);
            return (Answer::failure(&e), Vec::new());
        }
        failpoint!(self, "audited");
        let carried_out = match authorised {
            Err((_, e)) => Err(e),
            Ok(a) => caught(pin!(way.carry_out(a))).await,
        };
        let (result, effects, made) = match carried_out {
            Ok(Outcome { response, effects, made }) => (Ok(response), effects, made),
            Err(e) => (Err(e), Vec::new(), Vec::new()),
        };
        let result = match result {
            // Refused or failed, it is a use of its token all the same.
            Err(e) if facts.token.is_some() && !unauthenticated => {
                failpoint!(self, "failed");
                Err(Box::pin(way.count_failed_use()).await.err().unwrap_or(e))
            }
            other => other,
        };
        if result.is_ok() {
            // Beside the commit the request's line was on its way to the disk: now it must be there.
            if let Err(e) = audit::accepted(std::mem::take(&mut pending)).await {
                self.metrics.audit_failures.add(1);
                Box::pin(way.withdraw(&made)).await;
                return (Answer::failure(&e), effects);
            }
        }
        // Those of one group of commits come at the same time.
        let written = match entry.response(self.clock.now(), result.as_ref()) {
            Ok(pending) => audit::accepted(pending).await,
            Err(e) => Err(e),
        };
        if let Err(e) = written {
            self.metrics.audit_response_failures.add(1);
            Box::pin(way.withdraw(&made)).await;
            return (Answer::failure(&e), effects);
        }
        failpoint!(self, "answered");
        if result.as_ref().is_ok_and(|r| r.auth.as_ref().is_some_and(|a| !a.client_token.expose().is_empty()))
            && operation.writes()
        {
            self.metrics.tokens_created.add(1);
        }
        let answer = match result {
            Ok(response) => Answer::success(response, &request.id, mount.map_or("", |m| m.kind.as_str())),
            Err(e) => way_failure(&e, refused_by_policy(&facts)),
        };
        (answer, effects)
    }
}

fn refused_by_policy(facts: &AuthFacts) -> bool {
    facts.token.is_some() && !facts.allowed
}

fn way_failure(e: &Error, by_policy: bool) -> Answer {
    match e {
        Error::PermissionDenied if by_policy => Answer::error(403, "1 error occurred:\n\t* permission denied\n\n"),
        other => Answer::failure(other),
    }
}

impl Handler {
    pub(crate) fn find(&self, operation: Operation, path: &str) -> Option<Found> {
        // A POST is looked up as an update; the existence check may make it a create.
        match self {
            Handler::Engine(b) => b.find(operation, path),
            Handler::System(_, routes) => routes.find(operation, path),
            Handler::Token(_, routes) => routes.find(operation, path),
            Handler::Identity(_, routes) => routes.find(operation, path),
        }
    }

    fn exists(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
        match self {
            Handler::Engine(b) => b.exists(found, tx, call),
            Handler::System(b, routes) => routes.exists(b, found, tx, call),
            Handler::Token(b, routes) => routes.exists(b, found, tx, call),
            Handler::Identity(b, routes) => routes.exists(b, found, tx, call),
        }
    }

    fn prepare(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Option<Preparation>> {
        match self {
            Handler::Engine(b) => b.prepare(found, tx, call),
            Handler::System(b, routes) => routes.prepare(b, found, tx, call),
            Handler::Token(b, routes) => routes.prepare(b, found, tx, call),
            Handler::Identity(b, routes) => routes.prepare(b, found, tx, call),
        }
    }

    fn apply(&self, found: &Found, tx: &mut Tx, call: &Call<'_>) -> Result<Response> {
        match self {
            Handler::Engine(b) => b.apply(found, tx, call),
            Handler::System(b, routes) => routes.apply(b, found, tx, call),
            Handler::Token(b, routes) => routes.apply(b, found, tx, call),
            Handler::Identity(b, routes) => routes.apply(b, found, tx, call),
        }
    }
}

impl Way<'_> {
    fn store(&self) -> &Store {
        &self.core.store
    }

    fn barrier(&self) -> Barrier {
        Barrier::clone(&self.open.barrier.load())
    }

    /// The path from the root, as policies name it.
    fn full_path(&self) -> Cow<'_, str> {
        match self.space.path.as_str() {
            "" => Cow::Borrowed(&self.request.path),
            namespace => Cow::Owned(format!("{namespace}{}", self.request.path)),
        }
    }

    fn request_facts<'f>(&'f self, audited: &'f AuditedHeaders) -> RequestFacts<'f> {
        let entry = self.mount.map(|m| &m.entry);
        RequestFacts {
            id: &self.request.id,
            operation: self.operation,
            path: &self.request.path,
            data: &self.request.data,
            mount_point: self.mount.map_or("", |m| m.full_path.as_str()),
            mount_type: self.mount.map_or("", |m| m.kind.as_str()),
            namespace: &self.space.id,
            namespace_path: &self.space.path,
            mount_accessor: entry.map_or("", |e| e.accessor.as_str()),
            mount_class: entry.map_or("", |e| if e.auth { "auth" } else { "secret" }),
            remote: self.request.remote,
            wrap_ttl_secs: self.request.wrap_ttl.map_or(0, |t| t.as_secs()),
            headers: &self.request.headers,
            audited_headers: audited,
            certificate_serial: self.request.client_certificate_serial.as_deref(),
            plain_request_keys: entry.map_or(&[], |e| &e.plain_request_keys),
            plain_response_keys: entry.map_or(&[], |e| &e.plain_response_keys),
            policy_override: self.request.policy_override,
            forwarded_from: self.request.forwarded_from.as_deref().unwrap_or(""),
            node: "",
        }
    }

    fn call<'c>(
        &'c self,
        caller: &'c Caller,
        operation: Operation,
        found: &'c Found,
        prepared: Option<&'c Prepared>,
    ) -> Call<'c> {
        Call {
            operation,
            path: self.path,
            mount_point: self.mount.map_or("", |m| m.full_path.as_str()),
            mount_accessor: self.mount.map_or("", |m| m.entry.accessor.as_str()),
            request: self.request,
            caller,
            now: self.now,
            cluster_now: self.core.clock.cluster(),
            captures: &found.captures,
            prepared: prepared.map(|p| &**p),
            done: None,
        }
    }

    /// Route, prepare, transaction, commit.
    async fn carry_out(&self, authorised: Authorised) -> Result<Outcome> {
        let Some(mount) = self.mount else {
            return Err(Error::Status(
                404,
                vec![format!("no handler for route {:?}. route entry not found.", self.request.path)],
            ));
        };
        if mount.entry.moving {
            return Err(moves::is_under_way(&mount.full_path));
        }
        if self.operation == Operation::Read && self.request.data.contains_key("help") {
            let pattern = self.found.map(|f| &*f.pattern);
            let text = crate::open_api::help(mount, self.path, pattern).ok_or(Error::UnsupportedPath)?;
            return Ok(Outcome::of(Response::bare(text)));
        }
        let found = self.found.ok_or(Error::UnsupportedPath)?;
        if !found.supported {
            wrapping::check(&mut Tx::read_only(self.store().view(), self.barrier()), self.request, self.now)?;
            return Err(Error::UnsupportedOperation);
        }
        let login = self.login_name(mount, found, &authorised)?;
        self.keep_locked_out(mount, login.as_deref())?;
        let start = Instant::now();
        let logs_in = mount.entry.auth && found.unauthenticated && self.operation.writes();
        let carried_out = self.carry_out_at(mount, found, authorised, login.as_deref()).await;
        if logs_in {
            self.core.metrics.logins.since(start);
        }
        if let Some(name) = login {
            self.login_ended(mount, &name, &carried_out)?;
        }
        carried_out
    }

    /// Prepare, transaction, commit, of a route that was found.
    async fn carry_out_at(
        &self,
        mount: &Arc<Mount>,
        found: &Found,
        mut authorised: Authorised,
        login: Option<&str>,
    ) -> Result<Outcome> {
        let prepared = match self.preparation(mount, found, &authorised)? {
            Some(work) => Some(work.await?),
            None => None,
        };
        failpoint!(self.core, "prepared");
        let acted = match found.acts {
            true => Box::pin(self.act(mount, found, &mut authorised, prepared.as_ref())).await?,
            false => None,
        };
        let operation = self.operation;
        let mut effects = Vec::new();
        let mut waiting = None;
        let (mut uses, mut made) = (Vec::new(), Vec::new());
        let mut response =
            if operation.writes() || acted.is_some() || self.request.wrap_ttl.is_some() || !authorised.counted {
                let (mut first, mut routed_at) = (true, self.routed_at);
                let committed = self
                    .core
                    .transact(self.open, |tx| {
                        if !std::mem::take(&mut first) {
                            // What allowed the first run may have changed since.
                            authorised = self.authorise_again()?;
                            routed_at = self.same_mount(mount)?;
                        }
                        // Nothing is written to a mount that was disabled, moved or upgraded meanwhile.
                        tx.depend_on(mount.key.clone(), routed_at);
                        authorised.depend(tx);
                        let limited = authorised.caller.token_id.filter(|_| !authorised.counted);
                        let counts_after = self.is_of_the_token_itself(mount);
                        if let Some(id) = limited {
                            // Another request may have been its last one since.
                            wrapping::check(tx, self.request, self.now)?;
                            if tokens::load(tx, &id)?.is_none() {
                                return Err(Error::PermissionDenied);
                            }
                            if !counts_after {
                                tokens::count_use(tx, &id)?;
                            }
                        }
                        tx.enter(mount.scope);
                        if let Some(acted) = &acted {
                            intents::complete(tx, mount, &acted.key)?;
                        }
                        let call = self.call(&authorised.caller, operation, found, prepared.as_ref());
                        let call = Call { done: acted.as_ref().map(|a| &a.done), ..call };
                        let response = mount.handler.apply(found, tx, &call)?;
                        self.keep_locked_out(mount, login)?;
                        self.note_cubbyhole(tx, mount, &authorised)?;
                        let limits = self.core.options.limits;
                        let logs_in = response.login.as_ref().map(|login| login.counted_as.clone());
                        let factors = &self.open.second_factors;
                        let (mut response, waits) =
                            logins::complete(tx, mount, limits, self.request, response, factors, self.now)?;
                        waiting = waits;
                        let token_of = logs_in.or_else(|| self.makes_token(mount).then(String::new));
                        if let (Some(role), Some(auth)) = (&token_of, &response.auth)
                            && auth.token_type == TokenType::Service
                            && auth.lease_secs > 0
                        {
                            self.core.allow_lease(self.open, tx, self.place(), mount, role)?;
                        }
                        if let Some(new) = response.new_lease.take() {
                            if let Some(id) = limited.filter(|_| !counts_after)
                                && tokens::load(tx, &id)?.is_none()
                            {
                                return Err(Error::bad_request(LAST_USE));
                            }
                            let (caller, role) = (&authorised.caller, new.counted_as.clone());
                            let now = self.core.clock.cluster();
                            self.core.metrics.leases_created.add(1);
                            response.lease = Some(leases::issue(tx, mount, &self.request.path, *new, caller, now)?);
                            self.core.allow_lease(self.open, tx, self.place(), mount, &role)?;
                        }
                        self.finish(&authorised, found, &mut response)?;
                        if let Some(ttl) = self.request.wrap_ttl {
                            let shown = (mount.kind.as_str(), authorised.caller.display_name.as_str());
                            response = wrapping::wrap(tx, response, ttl, self.request, shown, self.now)?;
                        }
                        if let Some(id) = limited.filter(|_| counts_after) {
                            tokens::count_use_if_there(tx, &id)?;
                        }
                        effects = tx.effects().to_vec();
                        uses = tx.take_uses();
                        made = tx.take_made();
                        Ok(response)
                    })
                    .await;
                if let (Err(e), Some(acted)) = (&committed, &acted) {
                    Box::pin(self.take_back(mount, acted, e)).await;
                }
                let response = committed?;
                self.open.last_uses.of_things(uses, self.now);
                if let Some(login) = waiting {
                    self.open.second_factors.waiting.keep(login, self.now)?;
                }
                response
            } else {
                let (response, of_read) = self.read(mount, found, &authorised, prepared.as_ref())?;
                effects = of_read;
                response
            };
        for effect in &effects {
            match effect {
                Effect::AwaitJob(id) if !Box::pin(jobs::done(self.core, self.open, id)).await? => {
                    response.status = Some(202);
                    response.warnings.push(format!("It goes on as the job {}: see sys/jobs.", random::uuid_text(id)));
                }
                // The answer's own line goes to those that there are from now on.
                Effect::AuditDevices => Box::pin(self.core.follow_audit(self.open)).await?,
                Effect::AuditKey => self.core.follow_audit_key(self.open)?,
                _ => {}
            }
        }
        Ok(Outcome { response, effects, made })
    }

    /// A snapshot as the mount's handler sees it.
    fn reader_of(&self, mount: &Mount) -> Tx {
        let mut tx = self.core.reader(self.open).with_devices(&self.core.devices);
        tx.enter(mount.scope);
        tx
    }

    /// What changes nothing, in one snapshot.
    fn read(
        &self,
        mount: &Mount,
        found: &Found,
        authorised: &Authorised,
        prepared: Option<&Prepared>,
    ) -> Result<(Response, Vec<Effect>)> {
        let mut tx = self.reader_of(mount);
        let call = self.call(&authorised.caller, self.operation, found, prepared);
        let mut response = mount.handler.apply(found, &mut tx, &call)?;
        self.finish(authorised, found, &mut response)?;
        self.open.last_uses.of_things(tx.take_uses(), self.now);
        Ok((response, tx.take_effects()))
    }

    /// What has to be done before the transaction.
    fn preparation(&self, mount: &Mount, found: &Found, authorised: &Authorised) -> Result<Option<Preparation>> {
        if !found.waits {
            return Ok(None);
        }
        let mut tx = self.reader_of(mount);
        let call = self.call(&authorised.caller, self.operation, found, None);
        let preparation = mount.handler.prepare(found, &mut tx, &call)?;
        // A key that signs is used here, and not in the transaction.
        self.open.last_uses.of_things(tx.take_uses(), self.now);
        Ok(preparation)
    }

    /// A token's last use ends it before the request is carried out, unless the request is about what
    /// ends with the token.
    fn is_of_the_token_itself(&self, mount: &Mount) -> bool {
        mount.scope == CUBBYHOLE.of(self.space.uuid) || self.request.path == wrapping::UNWRAP
    }

    /// A token that keeps something in another namespace's cubbyhole takes it along when it ends.
    fn note_cubbyhole(&self, tx: &mut Tx, mount: &Mount, authorised: &Authorised) -> Result<()> {
        let (space, caller) = (self.space.uuid, &authorised.caller);
        match caller.token_id.filter(|id| id.namespace != space) {
            Some(id) if mount.scope == CUBBYHOLE.of(space) && self.operation.writes() => {
                cubbyhole::keeps_elsewhere(tx, &id, &space)
            }
            _ => Ok(()),
        }
    }

    /// The path of the namespace, and the path in it.
    fn place(&self) -> (&str, &str) {
        (&self.space.path, &self.request.path)
    }

    /// The answer's token is a new one, and not one that is renewed.
    fn makes_token(&self, mount: &Mount) -> bool {
        matches!(mount.handler, Handler::Token(..)) && self.path.starts_with("create")
    }

    /// The mount still answers for the path, as of the index that is returned.
    fn same_mount(&self, mount: &Mount) -> Result<u64> {
        let index = self.store().view().index();
        let router = self.core.router_of(self.open, self.space)?;
        match router.find(&self.request.path) {
            Some((now, _)) if now.key == mount.key && now.handler.is(&mount.handler) => Ok(index),
            _ => Err(Error::Unavailable("the mount has just been changed; try again".into())),
        }
    }

    /// Count the use of a request that changes nothing, if its token has a limited number of them.
    async fn count_failed_use(&self) -> Result<()> {
        let id = {
            let mut tx = self.core.reader(self.open);
            let index = tx.index();
            let session = self.session(&mut tx, index, &mut Vec::new())?;
            session.filter(|s| s.entry.num_uses > 0).and_then(|s| s.caller.token_id)
        };
        let Some(id) = id else { return Ok(()) };
        self.core.transact(self.open, |tx| tokens::count_use_if_there(tx, &id)).await
    }
}
