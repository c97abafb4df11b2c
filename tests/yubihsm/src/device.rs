//! The device: a message in, a message out.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA256};

use crate::channel::{Key, Keys, MAC_BYTES};
use crate::code::{self, ANSWER, AUTHENTICATION_KEY, ERROR, Refusal, algorithm, capability};
use crate::log::{self, Event, Log};
use crate::object::{IMPORTED, LABEL_BYTES, Object, Objects};
use crate::session::{Session, Sessions};

/// The longest message, of firmware 2.4.
const BUFFER_BYTES: usize = 3136;
const NOTHING: u16 = 0xffff;

pub struct Device {
    pub serial: u32,
    pub objects: Objects,
    pub log: Log,
    pub sessions: Sessions,
    started: Instant,
    /// Added to the time that has passed.
    pub moved: Duration,
    /// Changes a bit of each answer that passes the channel.
    pub tampers: bool,
    /// Commands that were carried out or refused, since it began.
    pub commands: u64,
}

/// What a session may do.
#[derive(Clone, Copy)]
pub struct Authority {
    pub id: u16,
    pub capabilities: u64,
    pub delegated: u64,
    pub domains: u16,
}

impl Authority {
    pub fn must(&self, capability: u64) -> Result<(), Refusal> {
        if self.capabilities & capability == capability { Ok(()) } else { Err(Refusal::InsufficientPermissions) }
    }
}

/// A number of two bytes, most often an object's id, and what follows.
pub fn split_id(data: &[u8]) -> Result<(u16, &[u8]), Refusal> {
    let (id, rest) = data.split_first_chunk().ok_or(Refusal::WrongLength)?;
    Ok((u16::from_be_bytes(*id), rest))
}

impl Device {
    /// As it leaves the factory: authentication key 1, whose password is `password`.
    pub fn new(serial: u32) -> Device {
        let mut device = Device {
            serial,
            objects: Objects::new(),
            log: Log::new(),
            sessions: Sessions::default(),
            started: Instant::now(),
            moved: Duration::ZERO,
            tampers: false,
            commands: 0,
        };
        device.add_authentication_key(1, "password", 0xffff, capability::ALL, capability::ALL);
        device
    }

    /// All is as it left the factory again.
    pub fn reset(&mut self) {
        let moved = self.moved;
        *self = Device::new(self.serial);
        self.moved = moved;
    }

    pub fn add_authentication_key(&mut self, id: u16, password: &str, domains: u16, capabilities: u64, delegated: u64) {
        let mut secret = vec![0; 32];
        let rounds = NonZeroU32::new(10_000).expect("not zero");
        pbkdf2::derive(PBKDF2_HMAC_SHA256, rounds, b"Yubico", password.as_bytes(), &mut secret);
        let mut label = [0; LABEL_BYTES];
        let name = b"DEFAULT AUTHKEY CHANGE THIS ASAP";
        label[..name.len()].copy_from_slice(name);
        self.objects.remove(AUTHENTICATION_KEY, id);
        let object = Object {
            kind: AUTHENTICATION_KEY,
            id,
            label,
            domains,
            capabilities,
            delegated,
            algorithm: algorithm::AES128_YUBICO_AUTHENTICATION,
            origin: IMPORTED,
            sequence: 0,
            secret,
        };
        self.objects.add(object).expect("there is room for another authentication key");
    }

    fn now(&self) -> Duration {
        self.started.elapsed() + self.moved
    }

    /// A message of a host, and the answer.
    pub fn process(&mut self, message: &[u8]) -> Vec<u8> {
        self.sessions.expire(self.now());
        self.commands += 1;
        let [command, l0, l1, data @ ..] = message else { return error(Refusal::WrongLength) };
        if data.len() != usize::from(u16::from_be_bytes([*l0, *l1])) || message.len() > BUFFER_BYTES {
            return error(Refusal::WrongLength);
        }
        let answered = match *command {
            code::ECHO => Ok(data.to_vec()),
            code::DEVICE_INFO => self.info(data),
            code::CREATE_SESSION => self.create_session(data),
            code::AUTHENTICATE_SESSION => self.authenticate_session(message),
            code::SESSION_MESSAGE => return self.session_message(message).unwrap_or_else(error),
            _ => Err(Refusal::InvalidCommand),
        };
        answered.map_or_else(error, |answer| framed(*command | ANSWER, &answer))
    }

    fn info(&self, data: &[u8]) -> Result<Vec<u8>, Refusal> {
        // The second page has the name of the chip alone.
        if data == [1] {
            return Ok(b"SIMULATOR".to_vec());
        }
        let mut info = vec![2, 4, 0];
        info.extend_from_slice(&self.serial.to_be_bytes());
        info.extend_from_slice(&[log::PLACES as u8, self.log.used()]);
        info.extend_from_slice(&algorithm::ALL);
        Ok(info)
    }

    fn create_session(&mut self, data: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (id, challenge) = split_id(data)?;
        let host: [u8; 8] = challenge.try_into().map_err(|_| Refusal::WrongLength)?;
        let key = self.objects.any(AUTHENTICATION_KEY, id).ok_or(Refusal::ObjectNotFound)?;
        let mut card = [0; 8];
        getrandom::fill(&mut card).expect("random bytes");
        let mut context = [0; 16];
        context[..8].copy_from_slice(&host);
        context[8..].copy_from_slice(&card);
        let half = |at: usize| Key::try_from(&key.secret[at..at + 16]).expect("two keys of sixteen bytes");
        let keys = Keys::new(&half(0), &half(16), context);
        let cryptogram = keys.card_cryptogram();
        let session =
            Session { keys, authority: id, authenticated: false, chain: [0; 16], counter: 1, used: self.now() };
        let place = self.sessions.add(session)?;
        self.note(code::CREATE_SESSION, data, NOTHING, id, 0x80 | code::CREATE_SESSION);
        Ok([&[place][..], &card, &cryptogram].concat())
    }

    fn authenticate_session(&mut self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let now = self.now();
        if message.len() != 3 + 1 + 8 + MAC_BYTES {
            return Err(Refusal::WrongLength);
        }
        let id = message[3];
        let session = self.sessions.find(id)?;
        let (authenticated, mac) = message.split_at(message.len() - MAC_BYTES);
        let chain = session.keys.command_mac(&[0; 16], authenticated);
        if session.authenticated || message[4..12] != session.keys.host_cryptogram() || chain[..MAC_BYTES] != *mac {
            self.sessions.end(id);
            return Err(Refusal::AuthenticationFailed);
        }
        session.authenticated = true;
        session.chain = chain;
        session.used = now;
        let authority = session.authority;
        self.note(code::AUTHENTICATE_SESSION, &message[3..], authority, authority, 0x80 | code::AUTHENTICATE_SESSION);
        Ok(Vec::new())
    }

    fn session_message(&mut self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let now = self.now();
        if message.len() < 3 + 1 + 16 + MAC_BYTES || !(message.len() - 3 - 1 - MAC_BYTES).is_multiple_of(16) {
            return Err(Refusal::WrongLength);
        }
        let id = message[3];
        let session = self.sessions.find(id)?;
        let (authenticated, mac) = message.split_at(message.len() - MAC_BYTES);
        let chain = session.keys.command_mac(&session.chain, authenticated);
        if !session.authenticated || chain[..MAC_BYTES] != *mac {
            self.sessions.end(id);
            return Err(Refusal::InvalidSession);
        }
        let (keys, counter, authority) = (session.keys.clone(), session.counter, session.authority);
        let mut inner = authenticated[4..].to_vec();
        keys.decrypt(counter, &mut inner);
        (session.chain, session.counter, session.used) = (chain, counter + 1, now);

        let answer = self.inner(id, authority, &inner);
        let sealed = keys.encrypt(counter, answer);
        let mut whole = framed(code::SESSION_MESSAGE | ANSWER, &[&[id][..], &sealed, &[0; MAC_BYTES]].concat());
        let end = whole.len() - MAC_BYTES;
        let mac = keys.answer_mac(&chain, &whole[..end]);
        whole[end..].copy_from_slice(&mac);
        if self.tampers {
            whole[10] ^= 1;
        }
        Ok(whole)
    }

    /// A command that came through the channel.
    fn inner(&mut self, session: u8, authority: u16, message: &[u8]) -> Vec<u8> {
        let length = usize::from(u16::from_be_bytes([message[1], message[2]]));
        let Some(data) = message.get(3..3 + length) else { return error(Refusal::WrongLength) };
        let command = message[0];
        let Some(key) = self.objects.any(AUTHENTICATION_KEY, authority) else { return error(Refusal::InvalidSession) };
        let authority =
            Authority { id: authority, capabilities: key.capabilities, delegated: key.delegated, domains: key.domains };
        let answered = self.log.allows(command).and_then(|()| self.carry_out(session, &authority, command, data));
        let result = answered.as_ref().map_or_else(|refusal| *refusal as u8, |_| command | ANSWER);
        if answered != Err(Refusal::LogFull) {
            let target = split_id(data).map_or(NOTHING, |(id, _)| id);
            self.note(command, data, authority.id, target, result);
        }
        answered.map_or_else(error, |answer| framed(command | ANSWER, &answer))
    }

    /// A command as a session of an authentication key would bring it.
    pub fn command_of(&mut self, authority: u16, command: u8, data: &[u8]) -> Vec<u8> {
        self.inner(0, authority, &framed(command, data))
    }

    fn carry_out(&mut self, session: u8, by: &Authority, command: u8, data: &[u8]) -> Result<Vec<u8>, Refusal> {
        match command {
            code::ECHO => Ok(data.to_vec()),
            code::BLINK_DEVICE => Ok(Vec::new()),
            code::CLOSE_SESSION => {
                self.sessions.end(session);
                Ok(Vec::new())
            }
            code::RESET_DEVICE => {
                by.must(capability::RESET_DEVICE)?;
                self.reset();
                Ok(Vec::new())
            }
            code::GET_STORAGE_INFO => Ok(self.storage_info()),
            code::PUT_AUTHENTICATION_KEY => self.put_authentication_key(by, data),
            code::GENERATE_ASYMMETRIC_KEY => self.generate_asymmetric_key(by, data),
            code::GENERATE_WRAP_KEY => self.generate_wrap_key(by, data),
            code::PUT_WRAP_KEY => self.put_wrap_key(by, data),
            code::EXPORT_WRAPPED => self.export_wrapped(by, data),
            code::GENERATE_HMAC_KEY => self.generate_hmac_key(by, data),
            code::PUT_HMAC_KEY => self.put_hmac_key(by, data),
            code::LIST_OBJECTS => self.list_objects(by, data),
            code::GET_OBJECT_INFO => self.object_info(by, data),
            code::DELETE_OBJECT => self.delete_object(by, data),
            code::GET_PUBLIC_KEY => self.public_key(by, data),
            code::SIGN_PKCS1 => self.sign_pkcs1(by, data),
            code::SIGN_PSS => self.sign_pss(by, data),
            code::SIGN_ECDSA => self.sign_ecdsa(by, data),
            code::SIGN_EDDSA => self.sign_eddsa(by, data),
            code::DECRYPT_OAEP => self.decrypt_oaep(by, data),
            code::DERIVE_ECDH => self.derive_ecdh(by, data),
            code::WRAP_DATA => self.wrap_data(by, data),
            code::UNWRAP_DATA => self.unwrap_data(by, data),
            code::SIGN_HMAC => self.sign_hmac(by, data),
            code::VERIFY_HMAC => self.verify_hmac(by, data),
            code::GET_PSEUDO_RANDOM => self.random(by, data),
            code::GET_LOG_ENTRIES => self.log_entries(by),
            code::SET_LOG_INDEX => self.set_log_index(by, data),
            code::SET_OPTION => self.set_option(by, data),
            code::GET_OPTION => self.get_option(by, data),
            _ => Err(Refusal::InvalidCommand),
        }
    }

    fn note(&mut self, command: u8, data: &[u8], authority: u16, target: u16, result: u8) {
        let tick = self.now().as_millis() as u32;
        self.log.ran(Event { command, length: data.len() as u16, authority, target, second: NOTHING, result, tick });
    }
}

fn framed(code: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [&[code, length[0], length[1]], data].concat()
}

fn error(refusal: Refusal) -> Vec<u8> {
    framed(ERROR, &[refusal as u8])
}
