//! Commands that make, describe, list and delete objects, and those for options and the log.

use crate::ccm;
use crate::code::{ASYMMETRIC_KEY, AUTHENTICATION_KEY, HMAC_KEY, Refusal, WRAP_KEY, algorithm as a, capability as c};
use crate::device::{Authority, Device, split_id};
use crate::keys;
use crate::object::{GENERATED, IMPORTED, LABEL_BYTES, Object, RECORDS};

type Answer = Result<Vec<u8>, Refusal>;

/// What all commands that make an object begin with.
struct Header {
    id: u16,
    label: [u8; LABEL_BYTES],
    domains: u16,
    capabilities: u64,
    algorithm: u8,
}

const HEADER_BYTES: usize = 2 + LABEL_BYTES + 2 + 8 + 1;

fn header(data: &[u8]) -> Result<(Header, &[u8]), Refusal> {
    let (head, rest) = data.split_at_checked(HEADER_BYTES).ok_or(Refusal::WrongLength)?;
    let header = Header {
        id: u16::from_be_bytes([head[0], head[1]]),
        label: head[2..2 + LABEL_BYTES].try_into().expect("a label's bytes"),
        domains: u16::from_be_bytes([head[42], head[43]]),
        capabilities: u64::from_be_bytes(head[44..52].try_into().expect("eight bytes")),
        algorithm: head[52],
    };
    if header.domains == 0 {
        return Err(Refusal::InvalidData);
    }
    Ok((header, rest))
}

fn delegated(rest: &[u8]) -> Result<(u64, &[u8]), Refusal> {
    let (number, rest) = rest.split_first_chunk().ok_or(Refusal::WrongLength)?;
    Ok((u64::from_be_bytes(*number), rest))
}

impl Device {
    fn make(
        &mut self,
        authority: &Authority,
        of: Header,
        kind: u8,
        delegated: u64,
        origin: u8,
        secret: Vec<u8>,
    ) -> Answer {
        // A session gives no more than it was given to give, and nothing outside of its domains.
        if of.capabilities & !authority.delegated != 0 || of.domains & !authority.domains != 0 {
            return Err(Refusal::InsufficientPermissions);
        }
        let Header { id, label, domains, capabilities, algorithm } = of;
        let object =
            Object { kind, id, label, domains, capabilities, delegated, algorithm, origin, sequence: 0, secret };
        Ok(self.objects.add(object)?.to_be_bytes().to_vec())
    }

    pub fn generate_asymmetric_key(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::GENERATE_ASYMMETRIC_KEY)?;
        let (of, rest) = header(data)?;
        if !rest.is_empty() {
            return Err(Refusal::WrongLength);
        }
        if self.objects.len() >= self.objects.room {
            return Err(Refusal::StorageFailed);
        }
        let secret = keys::generate(of.algorithm)?;
        self.make(authority, of, ASYMMETRIC_KEY, 0, GENERATED, secret)
    }

    pub fn generate_wrap_key(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::GENERATE_WRAP_KEY)?;
        let (of, rest) = header(data)?;
        let (delegated, _) = delegated(rest)?;
        let mut secret = vec![0; wrap_key_bytes(of.algorithm)?];
        getrandom::fill(&mut secret).expect("random bytes");
        self.make(authority, of, WRAP_KEY, delegated, GENERATED, secret)
    }

    pub fn put_wrap_key(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::PUT_WRAP_KEY)?;
        let (of, rest) = header(data)?;
        let (delegated, secret) = delegated(rest)?;
        if secret.len() != wrap_key_bytes(of.algorithm)? {
            return Err(Refusal::WrongLength);
        }
        self.make(authority, of, WRAP_KEY, delegated, IMPORTED, secret.to_vec())
    }

    pub fn generate_hmac_key(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::GENERATE_HMAC_KEY)?;
        let (of, _) = header(data)?;
        let mut secret = vec![0; if of.algorithm <= a::HMAC_SHA256 { 64 } else { 128 }];
        getrandom::fill(&mut secret).expect("random bytes");
        self.make(authority, of, HMAC_KEY, 0, GENERATED, secret)
    }

    pub fn put_hmac_key(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::PUT_HMAC_KEY)?;
        let (of, secret) = header(data)?;
        self.make(authority, of, HMAC_KEY, 0, IMPORTED, secret.to_vec())
    }

    /// EXPORT WRAPPED: if the session, the wrap key and the object itself all allow it.
    pub fn export_wrapped(&self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::EXPORT_WRAPPED)?;
        let (wrap, rest) = split_id(data)?;
        let [kind, i0, i1] = rest else { return Err(Refusal::WrongLength) };
        let wrap = self.objects.find(WRAP_KEY, wrap, authority.domains)?;
        let object = self.objects.find(*kind, u16::from_be_bytes([*i0, *i1]), authority.domains)?;
        let may = wrap.capabilities & c::EXPORT_WRAPPED != 0
            && object.capabilities & c::EXPORTABLE_UNDER_WRAP != 0
            && object.capabilities & !wrap.delegated == 0;
        if !may {
            return Err(Refusal::InsufficientPermissions);
        }
        let mut nonce = [0; ccm::NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("random bytes");
        // A limit of the simulator: what is inside has a form of its own.
        Ok(ccm::seal(&wrap.secret, nonce, &[object.info(), object.secret.clone()].concat()))
    }

    pub fn put_authentication_key(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::PUT_AUTHENTICATION_KEY)?;
        let (of, rest) = header(data)?;
        let (delegated, secret) = delegated(rest)?;
        if of.algorithm != a::AES128_YUBICO_AUTHENTICATION || secret.len() != 32 {
            return Err(Refusal::InvalidData);
        }
        self.make(authority, of, AUTHENTICATION_KEY, delegated, IMPORTED, secret.to_vec())
    }

    pub fn object_info(&self, authority: &Authority, data: &[u8]) -> Answer {
        let (id, rest) = split_id(data)?;
        let [kind] = rest else { return Err(Refusal::WrongLength) };
        Ok(self.objects.find(*kind, id, authority.domains)?.info())
    }

    pub fn list_objects(&self, authority: &Authority, data: &[u8]) -> Answer {
        let mut found: Vec<&Object> =
            self.objects.all().filter(|object| object.domains & authority.domains != 0).collect();
        let mut filters = data;
        while let Some((tag, rest)) = filters.split_first() {
            let bytes = match tag {
                0x02 | 0x05 => 1,
                0x01 | 0x03 => 2,
                0x04 => 8,
                0x06 => LABEL_BYTES.min(rest.len()),
                _ => return Err(Refusal::InvalidData),
            };
            let (value, rest) = rest.split_at_checked(bytes).ok_or(Refusal::WrongLength)?;
            let number = value.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            found.retain(|object| match tag {
                0x01 => u64::from(object.id) == number,
                0x02 => u64::from(object.kind) == number,
                0x03 => u64::from(object.domains) & number != 0,
                0x04 => object.capabilities & number != 0,
                0x05 => u64::from(object.algorithm) == number,
                _ => object.label.starts_with(value) && object.label[value.len()..].iter().all(|byte| *byte == 0),
            });
            filters = rest;
        }
        let entry = |object: &&Object| [&object.id.to_be_bytes()[..], &[object.kind, object.sequence]].concat();
        Ok(found.iter().flat_map(entry).collect())
    }

    pub fn delete_object(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        let (id, rest) = split_id(data)?;
        let [kind] = rest else { return Err(Refusal::WrongLength) };
        authority.must(match *kind {
            AUTHENTICATION_KEY => c::DELETE_AUTHENTICATION_KEY,
            ASYMMETRIC_KEY => c::DELETE_ASYMMETRIC_KEY,
            WRAP_KEY => c::DELETE_WRAP_KEY,
            HMAC_KEY => c::DELETE_HMAC_KEY,
            _ => return Err(Refusal::InvalidData),
        })?;
        self.objects.find(*kind, id, authority.domains)?;
        self.objects.remove(*kind, id);
        Ok(Vec::new())
    }

    pub fn storage_info(&self) -> Vec<u8> {
        const PAGES: u16 = 1024;
        let used = self.objects.len() as u16;
        let free = (self.objects.room as u16).saturating_sub(used);
        [RECORDS as u16, free, PAGES, PAGES - used, 126].iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    pub fn log_entries(&mut self, authority: &Authority) -> Answer {
        authority.must(c::GET_LOG_ENTRIES)?;
        Ok(self.log.read())
    }

    pub fn set_log_index(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::GET_LOG_ENTRIES)?;
        let (number, _) = split_id(data)?;
        self.log.acknowledge(number);
        Ok(Vec::new())
    }

    /// 0x01: the forced audit, 0x03: what is logged.
    pub fn set_option(&mut self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::SET_OPTION)?;
        let [option, l0, l1, value @ ..] = data else { return Err(Refusal::WrongLength) };
        if value.len() != usize::from(u16::from_be_bytes([*l0, *l1])) {
            return Err(Refusal::WrongLength);
        }
        match (*option, value) {
            (0x01, [force @ 0..=2]) => self.log.force = *force,
            (0x03, pairs) if pairs.len() % 2 == 0 => {
                self.log.audited.extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err(Refusal::InvalidData),
        }
        Ok(Vec::new())
    }

    pub fn get_option(&self, authority: &Authority, data: &[u8]) -> Answer {
        authority.must(c::GET_OPTION)?;
        match data {
            [0x01] => Ok(vec![self.log.force]),
            [0x03] => Ok(self.log.audited.iter().flat_map(|(command, how)| [*command, *how]).collect()),
            _ => Err(Refusal::InvalidData),
        }
    }
}

fn wrap_key_bytes(algorithm: u8) -> Result<usize, Refusal> {
    match algorithm {
        a::AES128_CCM_WRAP => Ok(16),
        a::AES192_CCM_WRAP => Ok(24),
        a::AES256_CCM_WRAP => Ok(32),
        _ => Err(Refusal::InvalidData),
    }
}
