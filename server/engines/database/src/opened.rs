//! Connections that are open: one plugin for each configured connection, in memory only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_sdk::Result;

use crate::connections::Connection;
use crate::plugin::Plugin;

/// With so many, those that were not asked for last are closed.
const MOST: usize = 1024;

#[derive(Default)]
pub struct Opened {
    by_name: Mutex<HashMap<String, ([u8; 16], Arc<dyn Plugin>)>>,
}

impl Opened {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, ([u8; 16], Arc<dyn Plugin>)>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugin of a connection as it is stored. Nothing is connected yet.
    pub fn get(&self, name: &str, connection: &Connection) -> Result<Arc<dyn Plugin>> {
        let mut all = self.lock();
        match all.get(name) {
            Some((revision, plugin)) if *revision == connection.revision => Ok(plugin.clone()),
            _ => {
                let plugin = connection.open()?;
                if all.len() >= MOST {
                    all.drain().for_each(|(_, (_, old))| old.close());
                }
                if let Some((_, old)) = all.insert(name.to_owned(), (connection.revision, plugin.clone())) {
                    old.close();
                }
                Ok(plugin)
            }
        }
    }

    pub fn close(&self, name: &str) {
        if let Some((_, plugin)) = self.lock().remove(name) {
            plugin.close();
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.lock().drain().for_each(|(_, (_, plugin))| plugin.close());
    }
}
