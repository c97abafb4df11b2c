//! Members on the loopback: a proxy in front of each member's cluster port, which knows who called by the
//! address the call comes from, and holds back what goes one way or the other.
//!
//! What is held back goes on when the way is open again, as TCP does it; a connection that is reset is lost. Of packets
//! that are lost a program sees that its connection stands still until they were sent again, and so it is here.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use holdfast_tests::connection::free_port;

use holdfast_random::Random;

use super::Network;

const CUT: u64 = u64::MAX;
/// After so long a piece that was lost is sent again (Linux's shortest wait for a TCP acknowledgement).
const SENT_AGAIN: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(5);

/// Proxies in front of all members; they end with it.
pub struct Proxies {
    shared: Arc<Shared>,
    fronts: Vec<u16>,
}

struct Shared {
    count: usize,
    /// Milliseconds that everything takes from one member to another, or [`CUT`].
    ways: Vec<AtomicU64>,
    /// Of a thousand pieces so many are lost.
    loss: AtomicU64,
    /// Decides which.
    chance: AtomicU64,
    /// Both sides of what is open.
    open: Mutex<Vec<TcpStream>>,
    strangers: AtomicUsize,
    ended: AtomicBool,
}

impl Proxies {
    /// In front of members that listen on these ports.
    pub fn before(ports: &[u16]) -> Proxies {
        let count = ports.len();
        let ways = (0..count * count).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared {
            count,
            ways,
            loss: AtomicU64::new(0),
            chance: AtomicU64::new(0),
            open: Mutex::default(),
            strangers: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let mut fronts = Vec::new();
        for (to, port) in ports.iter().enumerate() {
            let front = free_port();
            let listener = TcpListener::bind(("127.0.0.1", front)).expect("a free port");
            listener.set_nonblocking(true).expect("a listener that does not wait");
            fronts.push(front);
            let (shared, port) = (shared.clone(), *port);
            thread::spawn(move || shared.accept(&listener, to, port));
        }
        Proxies { shared, fronts }
    }
}

/// From where a member calls.
fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 11 + n as u8)
}

impl Network for Proxies {
    fn front(&self, n: usize, _port: u16) -> u16 {
        self.fronts[n]
    }

    fn command(&self, n: usize, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("CHAOS_SOURCE", source(n).to_string());
        command
    }

    fn cut(&self, from: usize, to: usize) {
        self.shared.way(from, to).store(CUT, Ordering::SeqCst);
    }

    fn delay(&self, takes: Duration) -> bool {
        for way in &self.shared.ways {
            way.store(takes.as_millis() as u64, Ordering::SeqCst);
        }
        true
    }

    /// Pieces are sent again when nobody has said that they came.
    fn lose(&self, of_a_thousand: u64) -> bool {
        self.shared.loss.store(of_a_thousand, Ordering::SeqCst);
        true
    }

    fn heal(&self) {
        self.lose(0);
        self.delay(Duration::ZERO);
    }

    fn reset(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _closed_already = stream.shutdown(Shutdown::Both);
        }
    }

    fn count(&self) -> usize {
        self.shared.count
    }

    /// Calls of which nobody knows where they came from: faults would not have reached them.
    fn was_used(&self) -> Result<(), String> {
        match self.shared.strangers.load(Ordering::SeqCst) {
            0 => Ok(()),
            calls => Err(format!("{calls} calls came from nobody knows where")),
        }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.reset();
    }
}

impl Shared {
    fn way(&self, from: usize, to: usize) -> &AtomicU64 {
        &self.ways[from * self.count + to]
    }

    fn loses(&self) -> bool {
        let loss = self.loss.load(Ordering::SeqCst);
        if loss == 0 {
            return false;
        }
        let n = self.chance.fetch_add(1, Ordering::SeqCst);
        Random::new(n).index(1000) < loss as usize
    }

    fn accept(self: &Arc<Shared>, listener: &TcpListener, to: usize, port: u16) {
        while !self.ended.load(Ordering::SeqCst) {
            let Ok((stream, address)) = listener.accept() else {
                thread::sleep(LOOK);
                continue;
            };
            let Some(from) = (0..self.count).find(|n| address.ip() == IpAddr::V4(source(*n))) else {
                self.strangers.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            // A member that is down: the call is refused here too.
            let Ok(onward) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))) else { continue };
            self.join(from, to, stream, onward);
        }
    }

    fn join(self: &Arc<Shared>, from: usize, to: usize, caller: TcpStream, called: TcpStream) {
        let settings = [&caller, &called].map(|s| s.set_nonblocking(false).and_then(|()| s.set_nodelay(true)));
        let (Ok(caller_again), Ok(called_again)) = (caller.try_clone(), called.try_clone()) else { return };
        let (Ok(one), Ok(other)) = (caller.try_clone(), called.try_clone()) else { return };
        if settings.iter().any(Result::is_err) {
            return;
        }
        {
            let mut open = self.open.lock().unwrap();
            // Those that have ended have no peer any more.
            open.retain(|s| s.peer_addr().is_ok());
            open.extend([one, other]);
        }
        let (there, back) = (self.clone(), self.clone());
        thread::spawn(move || there.carry(from, to, caller, called));
        thread::spawn(move || back.carry(to, from, called_again, caller_again));
    }

    fn carry(&self, from: usize, to: usize, mut source: TcpStream, mut target: TcpStream) {
        let mut bytes = [0; 64 << 10];
        while let Ok(n @ 1..) = source.read(&mut bytes) {
            let way = self.way(from, to);
            match way.load(Ordering::SeqCst) {
                CUT => {
                    while way.load(Ordering::SeqCst) == CUT && !self.ended.load(Ordering::SeqCst) {
                        thread::sleep(LOOK);
                    }
                }
                ms => thread::sleep(Duration::from_millis(ms)),
            }
            // Sent again, it may be lost again: the wait doubles.
            let mut wait = SENT_AGAIN;
            while self.loses() && wait <= SENT_AGAIN * 16 {
                thread::sleep(wait);
                wait *= 2;
            }
            if target.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        // The end of a connection goes no further than its bytes.
        while self.way(from, to).load(Ordering::SeqCst) == CUT && !self.ended.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
        }
        let _closed_already = (source.shutdown(Shutdown::Both), target.shutdown(Shutdown::Both));
    }
}
