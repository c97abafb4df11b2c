//! The sixteen places for sessions.

use std::time::Duration;

use crate::channel::Keys;
use crate::code::Refusal;

pub const PLACES: usize = 16;
/// A session that was not used for so long has ended.
const LIFE: Duration = Duration::from_secs(30);

/// A session that was begun.
#[derive(Clone)]
pub struct Session {
    pub keys: Keys,
    /// Of its authentication key.
    pub authority: u16,
    pub authenticated: bool,
    pub chain: [u8; 16],
    pub counter: u32,
    pub used: Duration,
}

#[derive(Default)]
pub struct Sessions([Option<Session>; PLACES]);

impl Sessions {
    /// Those that are idle for too long end.
    pub fn expire(&mut self, now: Duration) {
        for place in &mut self.0 {
            place.take_if(|session| now.saturating_sub(session.used) > LIFE);
        }
    }

    pub fn add(&mut self, session: Session) -> Result<u8, Refusal> {
        let free = self.0.iter().position(Option::is_none).ok_or(Refusal::SessionsFull)?;
        self.0[free] = Some(session);
        Ok(free as u8)
    }

    pub fn find(&mut self, id: u8) -> Result<&mut Session, Refusal> {
        self.0.get_mut(usize::from(id)).and_then(Option::as_mut).ok_or(Refusal::InvalidSession)
    }

    pub fn end(&mut self, id: u8) {
        if let Some(place) = self.0.get_mut(usize::from(id)) {
            *place = None;
        }
    }

    pub fn end_all(&mut self) {
        self.0 = Default::default();
    }

    pub fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }
}
