//! One change of a password at a time: the order in which a database saw two is the order in which they are stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use holdfast_sdk::{Error, Result};

/// Until it is dropped, nobody else changes this password.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "it is held")] Arc<()>);

#[derive(Default)]
pub struct Changes(Mutex<HashMap<String, Weak<()>>>);

impl Changes {
    pub fn enter(&self, name: &str) -> Result<Alone> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, held| held.strong_count() > 0);
        if all.contains_key(name) {
            return Err(Error::Unavailable(format!("the password of {name} is being changed; try again")));
        }
        let held = Arc::new(());
        all.insert(name.to_owned(), Arc::downgrade(&held));
        Ok(Alone(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_at_a_time_and_others_beside_it() {
        let changes = Changes::default();
        let first = changes.enter("a").unwrap();
        assert!(changes.enter("a").is_err());
        assert!(changes.enter("b").is_ok());
        drop(first);
        assert!(changes.enter("a").is_ok());
    }
}
