//! The audit log: 62 places, a chain of digests.

use std::collections::{BTreeMap, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};

use crate::code::{AUTHENTICATE_SESSION, CREATE_SESSION, GET_LOG_ENTRIES, Refusal, SET_LOG_INDEX, SET_OPTION};

pub const PLACES: usize = 62;
const NOTHING: u16 = 0xffff;

/// What an entry says, beside its number and digest.
#[derive(Clone, Copy)]
pub struct Event {
    pub command: u8,
    pub length: u16,
    pub authority: u16,
    pub target: u16,
    pub second: u16,
    pub result: u8,
    pub tick: u32,
}

pub struct Log {
    entries: VecDeque<[u8; 32]>,
    number: u16,
    digest: [u8; 16],
    unlogged_boots: u16,
    unlogged_logins: u16,
    /// 0: off, 1: on, 2: for good.
    pub force: u8,
    /// Commands that are logged.
    pub audited: BTreeMap<u8, u8>,
}

impl Log {
    /// Of a device that was just reset: it begins with a line of ones, and the start of the device.
    pub fn new() -> Log {
        let mut digest = [0; 16];
        getrandom::fill(&mut digest).expect("random bytes");
        let mut log = Log {
            entries: VecDeque::new(),
            number: 0,
            digest,
            unlogged_boots: 0,
            unlogged_logins: 0,
            force: 0,
            audited: BTreeMap::new(),
        };
        log.write([0xff; 14]);
        log.booted();
        log
    }

    pub fn used(&self) -> u8 {
        self.entries.len() as u8
    }

    pub fn booted(&mut self) {
        if self.is_full() && self.force != 0 {
            self.unlogged_boots = self.unlogged_boots.saturating_add(1);
            return;
        }
        self.note(Event { command: 0, length: 0, authority: NOTHING, target: 0, second: 0, result: 0, tick: 0 });
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= PLACES
    }

    /// Whether a command may run: it could be logged afterwards, or need not be.
    pub fn allows(&self, command: u8) -> Result<(), Refusal> {
        let always =
            matches!(command, CREATE_SESSION | AUTHENTICATE_SESSION | GET_LOG_ENTRIES | SET_LOG_INDEX | SET_OPTION);
        match self.force != 0 && self.is_full() && !always && self.logs(command) {
            true => Err(Refusal::LogFull),
            false => Ok(()),
        }
    }

    fn logs(&self, command: u8) -> bool {
        self.audited.get(&command).is_some_and(|how| *how != 0)
    }

    pub fn ran(&mut self, event: Event) {
        if !self.logs(event.command) {
            return;
        }
        if self.is_full() && self.force != 0 {
            if matches!(event.command, CREATE_SESSION | AUTHENTICATE_SESSION) {
                self.unlogged_logins = self.unlogged_logins.saturating_add(1);
            }
            return;
        }
        self.note(event);
    }

    fn note(&mut self, event: Event) {
        let mut data = [0; 14];
        data[0] = event.command;
        data[1..3].copy_from_slice(&event.length.to_be_bytes());
        data[3..5].copy_from_slice(&event.authority.to_be_bytes());
        data[5..7].copy_from_slice(&event.target.to_be_bytes());
        data[7..9].copy_from_slice(&event.second.to_be_bytes());
        data[9] = event.result;
        data[10..].copy_from_slice(&event.tick.to_be_bytes());
        self.write(data);
    }

    fn write(&mut self, data: [u8; 14]) {
        self.number = self.number.wrapping_add(1);
        let mut entry = [0; 32];
        entry[..2].copy_from_slice(&self.number.to_be_bytes());
        entry[2..16].copy_from_slice(&data);
        let whole = digest(&SHA256, &[&entry[..16], &self.digest[..]].concat());
        self.digest.copy_from_slice(&whole.as_ref()[..16]);
        entry[16..].copy_from_slice(&self.digest);
        // Without force the oldest makes room.
        if self.entries.len() >= PLACES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Takes an entry out, as somebody would who has got at it.
    pub fn lose_newest(&mut self) {
        self.entries.pop_back();
    }

    /// The answer to GET LOG ENTRIES.
    pub fn read(&mut self) -> Vec<u8> {
        let mut answer = Vec::new();
        answer.extend_from_slice(&self.unlogged_boots.to_be_bytes());
        answer.extend_from_slice(&self.unlogged_logins.to_be_bytes());
        answer.push(self.entries.len() as u8);
        self.entries.iter().for_each(|entry| answer.extend_from_slice(entry));
        answer
    }

    /// SET LOG INDEX: entries up to this one may be forgotten.
    pub fn acknowledge(&mut self, number: u16) {
        let of = |entry: &[u8; 32]| u16::from_be_bytes([entry[0], entry[1]]);
        if let Some(at) = self.entries.iter().position(|entry| of(entry) == number) {
            self.entries.drain(..=at);
            (self.unlogged_boots, self.unlogged_logins) = (0, 0);
        }
    }
}
