//! What members say to each other, and what becomes of it on the way.

use std::future::pending;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::cluster::Peer;
use holdfast_storage::{Frozen, Key, Value};
use tokio::sync::{mpsc, oneshot};

use super::node::{Cluster, Running};
use super::world::World;
use crate::raft::{Peers, Sent};
use crate::snapshot::{pack, unpack};

/// Bytes of a snapshot that are sent at a time.
const CHUNK_BYTES: usize = 512;
/// A chunk that does not arrive within this ends the transfer.
const CHUNK_WITHIN: Duration = Duration::from_secs(5);
/// What is the same after a snapshot came as a whole.
const INSTALL_WITHIN: Duration = Duration::from_secs(30);

/// What happens to messages.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    /// From whom to whom nothing comes.
    pub cut: Vec<(usize, usize)>,
    /// Of a hundred, so many are lost.
    pub loss: u64,
    /// What a message takes at most, in ms.
    pub delay_ms: u64,
    /// What a chunk of a snapshot takes beside, in ms.
    pub chunk_ms: u64,
}

/// The way between all nodes.
pub struct Network {
    world: World,
    trouble: Mutex<Trouble>,
}

impl Network {
    pub fn new(world: World) -> Network {
        let trouble = Mutex::new(Trouble { delay_ms: 2, ..Trouble::default() });
        Network { world, trouble }
    }

    pub fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything comes again.
    pub fn heal(&self) {
        *self.trouble() = Trouble { delay_ms: 2, ..Trouble::default() };
    }

    /// Between these and the others nothing comes.
    pub fn separate(&self, some: &[usize], count: usize) {
        let mut trouble = self.trouble();
        for a in 0..count {
            for b in 0..count {
                if some.contains(&a) != some.contains(&b) {
                    trouble.cut.push((a, b));
                }
            }
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.trouble().cut.contains(&(from, to))
    }

    /// Takes as long as a message does. False: it is lost.
    pub async fn carry(&self, from: usize, to: usize) -> bool {
        let (loss, delay) = {
            let trouble = self.trouble();
            (trouble.loss, trouble.delay_ms.max(1))
        };
        let lost = self.is_cut(from, to) || self.world.chance(loss);
        let takes = self.world.ms(0, delay);
        self.world.sleep_of(None, takes).await;
        !lost && !self.is_cut(from, to)
    }
}

/// How a node reaches the others.
pub struct Ways {
    pub cluster: Arc<Cluster>,
    pub from: usize,
}

/// The one to whom something is sent, as the sender knows it. A channel is opened to nobody else: who has lost its disk,
/// or has set its store aside, has another key, and is another member to those who do not know yet.
struct Target {
    place: usize,
    key_hash: String,
}

impl Target {
    fn of(peer: &Peer) -> io::Result<Target> {
        let place = peer.cluster_addr.parse().map_err(io::Error::other)?;
        Ok(Target { place, key_hash: peer.key_hash.clone() })
    }

    /// The node, if it runs and is who it is taken for.
    fn running(&self, cluster: &Cluster) -> io::Result<Arc<Running>> {
        let is_it = cluster.key_hash(self.place) == self.key_hash;
        let running = cluster.running(self.place).filter(|_| is_it);
        running.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

impl Peers for Ways {
    fn ask(&self, peer: &Peer, head: Vec<u8>, payloads: Vec<Value>) -> Sent<Vec<u8>> {
        let (cluster, from) = (self.cluster.clone(), self.from);
        let to = Target::of(peer);
        Box::pin(async move {
            let to = to?;
            let (answered, answer) = oneshot::channel();
            let world = cluster.world.clone();
            world.spawn(None, deliver(cluster, from, to, head, payloads, answered));
            match answer.await {
                Ok(answer) => answer,
                // It was lost: nobody says so.
                Err(_) => pending().await,
            }
        })
    }

    fn send_snapshot(&self, peer: &Peer, head: Vec<u8>, frozen: Box<Frozen>) -> Sent<Vec<u8>> {
        let (cluster, from) = (self.cluster.clone(), self.from);
        let to = Target::of(peer);
        Box::pin(async move { send_snapshot(cluster, from, to?, head, frozen).await })
    }
}

/// There, and back.
async fn deliver(
    cluster: Arc<Cluster>,
    from: usize,
    target: Target,
    head: Vec<u8>,
    payloads: Vec<Value>,
    answered: oneshot::Sender<io::Result<Vec<u8>>>,
) {
    let to = target.place;
    if !cluster.network.carry(from, to).await {
        return;
    }
    let answer = match target.running(&cluster) {
        Err(refused) => Err(refused),
        Ok(node) => {
            let (said, heard) = oneshot::channel();
            cluster.world.spawn(Some(to), async move {
                let _nobody_waits = said.send(node.group.answer(&head, payloads).await);
            });
            heard.await.map_err(|_| io::ErrorKind::ConnectionReset.into())
        }
    };
    if cluster.network.carry(to, from).await {
        let _nobody_waits = answered.send(answer);
    }
}

async fn send_snapshot(
    cluster: Arc<Cluster>,
    from: usize,
    target: Target,
    head: Vec<u8>,
    frozen: Box<Frozen>,
) -> io::Result<Vec<u8>> {
    let lost = || async {
        cluster.world.sleep_of(None, CHUNK_WITHIN).await;
        io::Error::from(io::ErrorKind::TimedOut)
    };
    let to = target.place;
    if !cluster.network.carry(from, to).await {
        return Err(lost().await);
    }
    let node = target.running(&cluster)?;
    let (chunks, mut coming) = mpsc::unbounded_channel::<Vec<u8>>();
    let (said, heard) = oneshot::channel();
    let version = frozen.snapshot.index();
    cluster.world.spawn(Some(to), async move {
        let taking = async {
            let mut received = node.group.receive()?;
            loop {
                // As on a channel that breaks: what came is of no use.
                let chunk = coming.recv().await.ok_or(io::ErrorKind::UnexpectedEof)?;
                if chunk.is_empty() {
                    break;
                }
                received.put(unpack(&chunk)?).map_err(io::Error::other)?;
            }
            received.is_version(version);
            Ok(node.group.take_snapshot(&head, received).await)
        };
        let _nobody_waits = said.send(taking.await);
    });
    let mut last: Option<Key> = None;
    loop {
        let start = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let entries = frozen.snapshot.chunk(start, CHUNK_BYTES).map_err(io::Error::other)?;
        last = entries.last().map(|(key, _)| key.clone());
        let slow = cluster.network.trouble().chunk_ms;
        if slow > 0 {
            cluster.world.sleep_of(None, Duration::from_millis(slow)).await;
        }
        if !cluster.network.carry(from, to).await {
            return Err(lost().await);
        }
        if chunks.send(pack(&entries)).is_err() {
            break;
        }
        if last.is_none() {
            break;
        }
    }
    let answered = async {
        let answer: io::Result<Vec<u8>> = heard.await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?;
        match cluster.network.carry(to, from).await {
            true => answer,
            false => Err(lost().await),
        }
    };
    let late = cluster.world.sleep_of(None, INSTALL_WITHIN);
    match futures_util::future::select(Box::pin(answered), late).await {
        futures_util::future::Either::Left((answer, _)) => answer,
        futures_util::future::Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
