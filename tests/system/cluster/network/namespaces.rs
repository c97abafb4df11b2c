//! Members in network namespaces of their own: the kernel's own sockets, links and queues between them.
//!
//! Each member has two links: `eth0`, at which clients find it, and `eth1`, which it shares with the other members.
//! Both are veth pairs whose other ends are ports of two bridges, in a further namespace in which the test and its
//! clients live. Faults are made on the members' links alone, so that a client may ask a member that is cut off.
//!
//! * A member is cut off by its cable (its port of the bridge is taken down) or its interface (`eth1` is), in turns.
//! * One way is cut by a wrong hardware address of the one that is not to be reached: what is sent goes to nobody, and
//!   no answer says so. The other way stays open. (A blackhole route would tell the sender.)
//! * Delay and loss are netem's, where the kernel has it.
//!
//! Namespaces have no names. They live as long as the files by which this process knows them and the members in them,
//! so that nothing is left over, whatever happens to the test. All is done by `ip`, `tc` and `ss`.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Network;

/// Addresses for trials like this one (RFC 2544); nobody else sees them.
const CLIENTS: [u8; 3] = [198, 18, 1];
const MEMBERS: [u8; 3] = [198, 18, 2];
/// A member's last octet is this and its number. The test's is 1.
const FIRST: u8 = 11;
/// A locally administered address that no link has.
const NOBODY: &str = "02:00:00:00:00:ff";
/// What `unshare` takes to have made a namespace at most.
const SOON: Duration = Duration::from_secs(20);
/// Packets on a member's link that a cluster under load surely sends.
const TALK: u64 = 100;

/// The namespaces of some members, around the thread that made them.
pub struct Namespaces {
    members: Vec<Namespace>,
    has_netem: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many members were cut off until now.
    cut_off: usize,
}

/// Run `work` in a thread of a namespace of its own, with such a network, or with the reason why there is none here.
pub fn within<T: Send>(count: usize, work: impl FnOnce(Result<Namespaces, String>) -> T + Send) -> T {
    // A thread that has entered a namespace does not come back: others tests must not run in it.
    thread::scope(|scope| match scope.spawn(|| work(Namespaces::make(count))).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl Namespaces {
    /// This thread, and those that it starts, are in the test's namespace afterwards.
    fn make(count: usize) -> Result<Namespaces, String> {
        let own = Namespace::make()?;
        move_into_link_name_space(own.0.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| format!("a network namespace cannot be entered: {e}"))?;
        let [a, b, c] = CLIENTS;
        own.ip(&format!(
            "link set lo up\nlink add clients type bridge\nlink add members type bridge\n\
             addr add {a}.{b}.{c}.1/24 dev clients\nlink set clients up\nlink set members up\n"
        ))?;
        let members = (0..count).map(|n| own.with_member(n)).collect::<Result<Vec<_>, String>>()?;
        let has_netem = members[0].has_netem();
        Ok(Namespaces { members, has_netem, state: Mutex::default() })
    }

    fn in_each(&self, script: &str) {
        for member in &self.members {
            member.ip(script).expect("a member's links");
        }
    }

    /// Take one member off the others' network: its cable, or its interface, in turns.
    fn cut_off(&self, one: usize) {
        let before = {
            let mut state = self.state.lock().unwrap();
            state.cut_off += 1;
            state.cut_off - 1
        };
        match before % 2 {
            0 => here(&format!("link set m{one} down\n")),
            _ => self.members[one].ip("link set eth1 down\n"),
        }
        .expect("a link that is taken down");
    }

    /// Let the queue of each member's link do this, or nothing.
    fn shape(&self, netem: Option<&str>) -> bool {
        if !self.has_netem {
            return false;
        }
        for member in &self.members {
            let done = match netem {
                Some(how) => member.run("tc", &format!("qdisc replace dev eth1 root netem {how}")),
                None => member.run("tc", "qdisc replace dev eth1 root pfifo"),
            };
            done.expect("a queue of packets");
        }
        true
    }
}

impl Network for Namespaces {
    fn hosts(&self, n: usize) -> (Ipv4Addr, Ipv4Addr) {
        (host(CLIENTS, n), host(MEMBERS, n))
    }

    fn command(&self, n: usize, program: &Path) -> Command {
        let mut command = self.members[n].command();
        command.arg(program);
        command
    }

    fn cut(&self, from: usize, to: usize) {
        let to = host(MEMBERS, to);
        let done = self.members[from].ip(&format!("neigh replace {to} lladdr {NOBODY} nud permanent dev eth1\n"));
        done.expect("a neighbour that is not found");
    }

    fn separate(&self, these: &[usize]) {
        let others: Vec<usize> = (0..self.count()).filter(|n| !these.contains(n)).collect();
        match (these, &others[..]) {
            ([one], _) | (_, [one]) => self.cut_off(*one),
            _ => these.iter().for_each(|one| {
                for other in &others {
                    self.cut(*one, *other);
                    self.cut(*other, *one);
                }
            }),
        }
    }

    fn delay(&self, takes: Duration) -> bool {
        self.shape(Some(&format!("delay {}ms", takes.as_millis())))
    }

    fn lose(&self, of_a_thousand: u64) -> bool {
        self.shape(Some(&format!("loss {}.{}%", of_a_thousand / 10, of_a_thousand % 10)))
    }

    fn reset(&self) {
        let [a, b, c] = MEMBERS;
        for member in &self.members {
            member.run("ss", &format!("-K -t src {a}.{b}.{c}.0/24")).expect("connections that are closed");
        }
    }

    fn heal(&self) {
        (0..self.count()).for_each(|n| here(&format!("link set m{n} up\n")).expect("a port of the bridge"));
        self.in_each("link set eth1 up\nneigh flush dev eth1 nud permanent\n");
        self.shape(None);
    }

    fn count(&self) -> usize {
        self.members.len()
    }

    fn was_used(&self) -> Result<(), String> {
        let figures = fs::read_to_string("/proc/thread-self/net/dev").map_err(|e| e.to_string())?;
        (0..self.count()).try_for_each(|n| {
            let link = figures.lines().find_map(|line| line.trim_start().strip_prefix(&format!("m{n}:")));
            // `bytes packets errs …` of what came; see proc_pid_net(5).
            let packets = link.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok());
            match packets {
                Some(packets) if packets > TALK => Ok(()),
                other => Err(format!("member {n} sent {other:?} packets to others by its link:\n{figures}")),
            }
        })
    }
}

fn host([a, b, c]: [u8; 3], n: usize) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, FIRST + n as u8)
}

/// A network namespace, by its file. It ends with the last process in it and this.
struct Namespace(File);

impl Namespace {
    /// A process makes it and ends when its input does; the file stays.
    fn make() -> Result<Namespace, String> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = unshare.spawn().map_err(|e| format!("unshare cannot be started: {e}"))?;
        let (its, ours) = (PathBuf::from(format!("/proc/{}/ns/net", child.id())), "/proc/thread-self/ns/net");
        let begun = Instant::now();
        let file = loop {
            let is_new = matches!((fs::read_link(&its), fs::read_link(ours)), (Ok(its), Ok(ours)) if its != ours);
            if is_new && let Ok(file) = File::open(&its) {
                break Some(file);
            }
            if child.try_wait().map_err(|e| e.to_string())?.is_some() || begun.elapsed() > SOON {
                break None;
            }
            thread::sleep(Duration::from_millis(1));
        };
        drop(child.stdin.take());
        let said = child.wait_with_output().map_err(|e| e.to_string())?;
        file.map(Namespace).ok_or_else(|| String::from_utf8_lossy(&said.stderr).trim().to_owned())
    }

    /// Where other programs find it, as long as this process has it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// A new one whose links end at the bridges of this one, in which this thread is.
    fn with_member(&self, n: usize) -> Result<Namespace, String> {
        let member = Namespace::make()?;
        let path = member.path();
        let mut script = String::new();
        for (bridge, link, own, net) in [("clients", "c", "eth0", 1), ("members", "m", "eth1", 2)] {
            script += &format!(
                "link add {link}{n} type veth peer name {own} address 02:00:00:00:{net:02x}:{n:02x} netns {path}\n\
                 link set {link}{n} master {bridge} up\n"
            );
        }
        self.ip(&script)?;
        let (clients, members) = (host(CLIENTS, n), host(MEMBERS, n));
        member.ip(&format!(
            "link set lo up\naddr add {clients}/24 dev eth0\nlink set eth0 up\naddr add {members}/24 dev eth1\n\
             link set eth1 up\n"
        ))?;
        Ok(member)
    }

    /// A command that starts another program in it, in its own place.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command
    }

    /// Some lines of `ip -batch`.
    fn ip(&self, script: &str) -> Result<(), String> {
        let mut command = self.command();
        command.args(["ip", "-batch", "-"]);
        feed(command, script)
    }

    fn run(&self, program: &str, arguments: &str) -> Result<(), String> {
        let mut command = self.command();
        command.arg(program).args(arguments.split(' '));
        feed(command, "")
    }

    /// Whether the kernel has netem.
    fn has_netem(&self) -> bool {
        self.run("tc", "qdisc replace dev eth1 root netem delay 1ms").is_ok()
            && self.run("tc", "qdisc replace dev eth1 root pfifo").is_ok()
    }
}

/// Some lines of `ip -batch` in the namespace of this thread.
fn here(script: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    feed(command, script)
}

/// Run a program with this input.
fn feed(mut command: Command, input: &str) -> Result<(), String> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{command:?} cannot be started: {e}"))?;
    // One that has ended already says why.
    let _ended = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let done = child.wait_with_output().map_err(|e| e.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}\n{input}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Long for a datagram that crosses a bridge.
    const ARRIVES_WITHIN: Duration = Duration::from_millis(300);

    impl Namespace {
        /// A socket of a member; it stays there.
        fn socket(&self, host: Ipv4Addr) -> UdpSocket {
            thread::scope(|scope| {
                let made = scope.spawn(|| {
                    move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("a namespace");
                    UdpSocket::bind((host, 4000)).expect("a socket")
                });
                made.join().expect("no panic")
            })
        }
    }

    /// Who hears whom: `from` and `to` of each datagram that arrived.
    fn heard(sockets: &[UdpSocket]) -> Vec<(usize, usize)> {
        for (from, socket) in sockets.iter().enumerate() {
            for to in (0..sockets.len()).filter(|to| *to != from) {
                // Where its interface is down it is told so.
                let _sent = socket.send_to(&[from as u8], (host(MEMBERS, to), 4000));
            }
        }
        let mut heard = Vec::new();
        for (to, socket) in sockets.iter().enumerate() {
            socket.set_read_timeout(Some(ARRIVES_WITHIN)).expect("a time limit");
            let mut byte = [0];
            while socket.recv_from(&mut byte).is_ok() {
                heard.push((byte[0].into(), to));
            }
        }
        heard.sort_unstable();
        heard
    }

    #[test]
    fn what_is_cut_in_network_namespaces_is_not_heard_that_way_and_the_rest_is() {
        within(3, |made| {
            let network = match made {
                Ok(network) => network,
                Err(why) => return eprintln!("no network namespaces here: {why}"),
            };
            let sockets: Vec<UdpSocket> =
                network.members.iter().enumerate().map(|(n, m)| m.socket(host(MEMBERS, n))).collect();
            let all = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
            // Neighbours that were not heard of before are asked for first.
            holdfast_tests::until(SOON, "a network that carries", || (heard(&sockets) == all).then_some(()));
            let without = |lost: &[(usize, usize)]| -> Vec<(usize, usize)> {
                all.into_iter().filter(|way| !lost.contains(way)).collect()
            };
            let expect = |lost: &[(usize, usize)]| {
                assert_eq!(heard(&sockets), without(lost));
                network.heal();
                holdfast_tests::until(SOON, "a network that is healed", || (heard(&sockets) == all).then_some(()));
            };
            network.cut(0, 1);
            expect(&[(0, 1)]);
            network.deafen(2);
            expect(&[(0, 2), (1, 2)]);
            network.mute(2);
            expect(&[(2, 0), (2, 1)]);
            // By its cable, and by its interface.
            for _ in 0..2 {
                network.separate(&[1]);
                expect(&[(0, 1), (1, 0), (1, 2), (2, 1)]);
                network.separate(&[0, 2]);
                expect(&[(0, 1), (1, 0), (1, 2), (2, 1)]);
            }
            if network.has_netem {
                network.lose(1000);
                expect(&all);
            }
        });
    }
}
