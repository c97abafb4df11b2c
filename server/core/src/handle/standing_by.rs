//! The way of a read that a node which stands by answers. Whatever could make a difference to the answer of the active
//! node, or leaves something behind, gives back nothing: no answer and no audit line, and the request is passed on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_sdk::{Body, Operation, Request, Response};

use super::house::{House, is_of_root_alone};
use super::judge::Authorised;
use super::{Located, Way};
use crate::audit::{self, Pending};
use crate::cluster::ReadPoint;
use crate::in_flight::Flight;
use crate::last_use::hour_of;
use crate::layout::ROOT;
use crate::reading::Reading;
use crate::{Answer, Core};

/// After this a read is passed on.
const WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked whether a state is there that a client has named.
const LOOK: Duration = Duration::from_millis(2);

/// What a node that stands by makes of a read.
pub enum Here {
    Answered(Answer),
    /// The active node is asked.
    PassedOn,
}

enum Reached {
    Yes,
    NotYet,
    /// With the answer, if this node gives one.
    No(Option<Answer>),
}

impl Core {
    /// Answer a read, though this node stands by. `named`: the states that the client has seen, as it names them;
    /// `asks_active`: where they are not reached, the active node is asked.
    pub async fn read_here(self: &Arc<Self>, request: Request, named: &[&str], asks_active: bool) -> Here {
        let start = Instant::now();
        let Some(request) = self.may_be_read_here(request) else { return Here::PassedOn };
        match self.read_within(request, (named, asks_active)).await {
            Some(answer) => {
                self.metrics.handled(start, answer.status, false);
                self.metrics.standby_reads.add(1);
                Here::Answered(answer)
            }
            None => {
                self.metrics.standby_reads_passed_on.add(1);
                Here::PassedOn
            }
        }
    }

    /// The request, if its route is declared to be answered by any node. It is looked for again when it is answered.
    fn may_be_read_here(self: &Arc<Self>, mut request: Request) -> Option<Request> {
        let reading = self.readers.ready()?;
        let reads = matches!(request.operation, Operation::Read | Operation::List | Operation::Scan);
        if !reads || request.wrap_ttl.is_some() || request.data.contains_key("help") {
            return None;
        }
        let (path, namespace) = (request.path.clone(), request.namespace.clone());
        let house = self.house_of(&reading.open, &mut request).ok()?;
        let declared = house.router.locate(&request).found.is_some_and(|f| f.supported && f.reads_anywhere);
        (request.path, request.namespace) = (path, namespace);
        declared.then_some(request)
    }

    async fn read_within(self: &Arc<Self>, request: Request, (named, asks_active): (&[&str], bool)) -> Option<Answer> {
        let until = tokio::time::Instant::now() + WITHIN;
        let cluster = self.options.cluster.as_ref()?;
        let point = tokio::time::timeout_at(until, cluster.point_of_read()).await.ok()??;
        self.clock.follow_cluster(point.cluster);
        loop {
            let is_over = tokio::time::Instant::now() >= until;
            match self.reaches(named, is_over) {
                Reached::Yes => break,
                Reached::No(refused) => return refused.filter(|_| !asks_active),
                Reached::NotYet => tokio::time::sleep(LOOK).await,
            }
        }
        // Nobody holds on to a reader while he waits: it ends when this node becomes the active one.
        let (mut answer, lines, state) = self.readers.ready().and_then(|reading| {
            let (answer, lines) = self.read_standing_by(&reading, request, point)?;
            Some((answer, lines, self.index_headers(&reading.open)))
        })?;
        // No device of this node takes them: one of the active node's may.
        audit::accepted(lines).await.ok()?;
        answer.headers.extend(state);
        Some(answer)
    }

    /// Whether the states that a client names are there.
    fn reaches(&self, named: &[&str], is_over: bool) -> Reached {
        let Some(reading) = self.readers.ready() else { return Reached::No(None) };
        match self.check_index_in(&reading.open, named.iter().copied()) {
            Ok(()) => Reached::Yes,
            // No time brings a state of another store.
            Err(refused) if refused.status == 412 => match is_over || self.names_another_store(&reading.open, named) {
                true => Reached::No(Some(refused)),
                false => Reached::NotYet,
            },
            Err(_) => Reached::No(None),
        }
    }

    fn read_standing_by(
        self: &Arc<Self>,
        reading: &Arc<Reading>,
        mut request: Request,
        point: ReadPoint,
    ) -> Option<(Answer, Pending)> {
        let open = &reading.open;
        let house: House = self.house_of(open, &mut request).ok()?;
        let space = house.space(open);
        if space.locked.is_some() || (space.uuid != ROOT && is_of_root_alone(&request.path)) {
            return None;
        }
        let entered = self.enter(request);
        let flight: &Arc<Flight> = &entered.flight;
        let request = &flight.request;
        let Located { mount, path, found } = house.router.locate(request);
        let mount = mount.filter(|mount| !mount.entry.moving)?;
        let found = found.as_ref().filter(|f| f.supported && f.reads_anywhere && !f.waits && !f.acts)?;
        // Requests are counted by one node.
        if self.has_rate_limit(open, request, Some(mount)).ok()? {
            return None;
        }
        let headers = open.audited_headers(self).ok()?;
        let now = self.clock.now().max(point.now);
        let way = Way {
            core: self,
            open,
            flight,
            space,
            request,
            mount: Some(mount),
            path,
            found: Some(found),
            operation: request.operation,
            now,
            routed_at: house.routed_at,
        };
        let authorised = if found.unauthenticated { way.nobody() } else { way.authorise_here()? };
        let read = catch_unwind(AssertUnwindSafe(|| way.read_all(&authorised))).ok()?;
        let response = read?;
        self.count_root(&authorised.caller);
        let about = way.request_facts(&headers);
        let about = audit::RequestFacts { node: self.node_id().unwrap_or_default(), ..about };
        // Keys, or the whole store, may be other ones by now: then the answer is of neither.
        if !self.readers.is_current(reading) {
            return None;
        }
        let entry = open.audit.entry(&authorised.facts, &about);
        let lines = entry.both((now, self.clock.now().max(now)), None, Ok(&response)).ok()?;
        Some((Answer::success(response, &request.id, &mount.kind), lines))
    }
}

impl Way<'_> {
    /// As [`Way::authorise`], where nothing of it leaves anything behind.
    fn authorise_here(&self) -> Option<Authorised> {
        if !self.is_noted_as_used()? {
            return None;
        }
        // The use of a token is a write.
        self.authorise().1.ok().filter(|authorised| authorised.counted)
    }

    /// That a token is used is noted once an hour by the active node, which hears of it by being asked.
    fn is_noted_as_used(&self) -> Option<bool> {
        let mut tx = self.core.reader(self.open);
        let index = tx.index();
        let session = self.session(&mut tx, index, &mut Vec::new()).ok()??;
        Some(session.caller.token_id.is_none() || session.is_noted_in(hour_of(self.now)))
    }

    /// The response, if it is one without a consequence.
    fn read_all(&self, authorised: &Authorised) -> Option<Response> {
        let (mount, found) = (self.mount?, self.found?);
        let mut tx = self.reader_of(mount);
        let call = self.call(&authorised.caller, self.operation, found, None);
        let mut response = mount.handler.apply(found, &mut tx, &call).ok()?;
        self.finish(authorised, found, &mut response).ok()?;
        let leaves_nothing = tx.take_uses().is_empty() && tx.take_effects().is_empty() && !tx.writes_anything();
        (leaves_nothing && is_plain(&response)).then_some(response)
    }
}

/// Whether it says something, and nothing but that. What is not there, or gone, the active node says.
fn is_plain(response: &Response) -> bool {
    let has_text = matches!(response.body, Body::Data(_) | Body::Both(_) | Body::Bare(_));
    has_text
        && response.status.is_none()
        && response.auth.is_none()
        && response.login.is_none()
        && response.new_lease.is_none()
        && response.lease.as_ref().is_none_or(|lease| lease.id.is_empty())
}
