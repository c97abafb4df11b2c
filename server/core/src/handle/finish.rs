//! What the core adds to a handler's answer, and what it takes away.

use std::collections::HashSet;

use holdfast_sdk::{Body, Error, Found, Operation, Response, Result, Value};

use super::{Authorised, Way};
use crate::policies::system_time;

impl Way<'_> {
    /// What the core adds to a handler's answer.
    pub(super) fn finish(&self, authorised: &Authorised, found: &Found, response: &mut Response) -> Result<()> {
        if matches!(self.operation, Operation::List | Operation::Scan) {
            self.hide_keys(authorised, response)?;
            limit_page(authorised, response);
        }
        self.warn(found, response);
        Ok(())
    }

    /// A policy's `list_scan_response_keys_filter_path` hides what the caller may not read.
    fn hide_keys(&self, authorised: &Authorised, response: &mut Response) -> Result<()> {
        let (Some(filter), Some((policies, _))) = (&authorised.response_filter, &authorised.policies) else {
            return Ok(());
        };
        let Body::Data(data) = &mut response.body else { return Ok(()) };
        let Some(Value::Array(keys)) = data.get_mut("keys") else { return Ok(()) };
        let now = system_time(self.core.policy_time());
        let path = self.full_path();
        let shows = |key: &str| policies.acl.shows(filter, &path, key, now);
        keys.retain(|key| key.as_str().is_some_and(shows));
        if keys.is_empty() {
            // As a folder that holds nothing: that there is something must not show.
            return Err(Error::NotFound);
        }
        if let Some(Value::Object(info)) = data.get_mut("key_info") {
            info.retain(|key, _| shows(key));
        }
        Ok(())
    }

    /// Tell about parameters that nobody looked at.
    fn warn(&self, found: &Found, response: &mut Response) {
        if matches!(response.body, Body::None) && response.auth.is_none() && response.warnings.is_empty() {
            return;
        }
        let known = |name: &str| found.known.contains(&name) || found.captures.get(name).is_some();
        let mut ignored: Vec<&str> = self.request.data.keys().map(String::as_str).filter(|k| !known(k)).collect();
        if !ignored.is_empty() && !found.takes_anything {
            ignored.sort_unstable();
            response.warnings.push(format!("Endpoint ignored these unrecognized parameters: [{}]", ignored.join(" ")));
        }
        let mut replaced: Vec<&str> = found.captures.names().filter(|k| self.request.data.contains_key(*k)).collect();
        if !replaced.is_empty() {
            replaced.sort_unstable();
            response.warnings.push(format!(
                "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: [{}]",
                replaced.join(" ")
            ));
        }
    }
}

/// A policy's pagination limit shortens a list that was asked for without one.
fn limit_page(authorised: &Authorised, response: &mut Response) {
    if let Some(limit) = authorised.pagination_limit
        && let Body::Data(map) = &mut response.body
        && let Some(Value::Array(keys)) = map.get_mut("keys")
    {
        keys.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let shown: HashSet<String> = keys.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if let Some(Value::Object(details)) = map.get_mut("key_info") {
            details.retain(|name, _| shown.contains(name));
        }
    }
}
