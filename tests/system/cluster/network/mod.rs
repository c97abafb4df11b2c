//! The network between the members, and what goes wrong in it: proxies on the loopback ([`proxies`]), or a network
//! namespace for each member ([`namespaces`]) where the machine lets us make some.

pub mod namespaces;
pub mod proxies;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What lies between members that are numbered from 0.
pub trait Network: Send + Sync {
    /// The address of a member: for clients, and for other members.
    fn hosts(&self, _n: usize) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)
    }

    /// The port at which others find a member, which listens on `port`.
    fn front(&self, _n: usize, port: u16) -> u16 {
        port
    }

    /// The command that starts a member where this network reaches it.
    fn command(&self, n: usize, program: &Path) -> Command;

    /// Let nothing through from one member to another; what is sent vanishes.
    fn cut(&self, from: usize, to: usize);

    /// Let nothing through between these members and the others.
    fn separate(&self, these: &[usize]) {
        for one in these {
            for other in (0..self.count()).filter(|n| !these.contains(n)) {
                self.cut(*one, other);
                self.cut(other, *one);
            }
        }
    }

    /// Let nothing through that others send to a member.
    fn deafen(&self, one: usize) {
        self.others(one).for_each(|other| self.cut(other, one));
    }

    /// Let nothing through that a member sends to others.
    fn mute(&self, one: usize) {
        self.others(one).for_each(|other| self.cut(one, other));
    }

    /// Let everything between all members take this time. False: it cannot be done here.
    fn delay(&self, takes: Duration) -> bool;

    /// Let so many of a thousand pieces be lost. False: it cannot be done here.
    fn lose(&self, of_a_thousand: u64) -> bool;

    /// Close every connection between members.
    fn reset(&self);

    /// Open all ways.
    fn heal(&self);

    /// How many members there are.
    fn count(&self) -> usize;

    fn others(&self, one: usize) -> Box<dyn Iterator<Item = usize>> {
        Box::new((0..self.count()).filter(move |other| *other != one))
    }

    /// Whether what members said to each other went through here, so that the faults have reached it.
    fn was_used(&self) -> Result<(), String>;
}
