//! Which policies a new token gets.

use holdfast_sdk::{Call, Error, Place, Result, Transaction};

use super::TokenEntry;
use super::roles::{Role, matches};
use crate::layout::{POLICIES, SYSTEM};
use crate::policies;
use crate::tx::Tx;

/// What was asked of a new token's policies.
pub struct Asked<'a> {
    /// None: nothing was named; a list of blanks is the default policy alone.
    pub named: Option<Vec<String>>,
    pub no_default: bool,
    pub role: Option<&'a Role>,
}

/// The named policies if the caller or the role may give them, else the caller's own or the role's.
pub fn policies_of(
    tx: &mut Tx,
    call: &Call<'_>,
    parent: &TokenEntry,
    asked: Asked<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>> {
    let named = asked.named.map(tidied);
    let no_default = asked.no_default || asked.role.is_some_and(|r| r.no_default_policy);
    let list = match asked.role.filter(|r| r.limits_policies()) {
        Some(role) => by_role(role, parent, named, no_default)?,
        None => by_parent(call, parent, named, no_default)?,
    };
    if list.iter().any(|n| n == "root") {
        if !parent.is_root() {
            return Err(Error::bad_request("root tokens may not be created without parent token being root"));
        }
        return Ok(vec!["root".into()]);
    }
    if let Some(name) = list.iter().find(|n| policies::NOT_ASSIGNABLE.contains(&n.as_str())) {
        return Err(Error::bad_request(format!("cannot assign policy {name:?}")));
    }
    for name in &list {
        let there = name == "default" || tx.within(SYSTEM, |tx| tx.get(Place::Name(POLICIES, name)))?.is_some();
        if !there {
            warnings.push(format!("Policy {name:?} does not exist"));
        }
    }
    Ok(list)
}

/// Trimmed, in lower case, sorted, each once.
fn tidied(list: Vec<String>) -> Vec<String> {
    let mut list: Vec<String> = list.iter().map(|n| n.trim().to_lowercase()).filter(|n| !n.is_empty()).collect();
    list.sort();
    list.dedup();
    list
}

fn with_default(mut list: Vec<String>) -> Vec<String> {
    if !list.iter().any(|n| n == "default" || n == "root") {
        list.push("default".into());
        list.sort();
    }
    list
}

fn by_parent(
    call: &Call<'_>,
    parent: &TokenEntry,
    named: Option<Vec<String>>,
    no_default: bool,
) -> Result<Vec<String>> {
    let has_default = parent.policies.iter().any(|n| n == "default");
    let Some(named) = named else {
        let mut list = parent.policies.clone();
        list.retain(|n| !(no_default && n == "default"));
        return Ok(list);
    };
    if named.iter().any(|n| n == "root") {
        return Ok(named);
    }
    if !call.caller.sudo && named.iter().any(|n| *n != "default" && !parent.policies.contains(n)) {
        return Err(Error::bad_request("child policies must be subset of parent"));
    }
    Ok(if !no_default && (has_default || call.caller.sudo) { with_default(named) } else { named })
}

fn by_role(role: &Role, parent: &TokenEntry, named: Option<Vec<String>>, no_default: bool) -> Result<Vec<String>> {
    let add_default = !no_default && !role.forbids("default");
    let complete = |list: Vec<String>| if add_default { with_default(list) } else { list };
    let allows_all = role.allowed_policies.is_empty() && role.allowed_policies_glob.is_empty();
    let list = match named {
        None if allows_all => complete(parent.policies.clone()),
        None => complete(role.allowed_policies.clone()),
        Some(named) => {
            let asked = complete(named);
            let allowed = complete(role.allowed_policies.clone());
            let fits = |n: &String| {
                allows_all || allowed.contains(n) || role.allowed_policies_glob.iter().any(|glob| matches(glob, n))
            };
            if !asked.iter().all(fits) {
                return Err(Error::bad_request(format!(
                    "token policies ({}) must be subset of the role's allowed policies ({}) or glob policies ({})",
                    quoted(&asked),
                    quoted(&allowed),
                    quoted(&role.allowed_policies_glob)
                )));
            }
            asked
        }
    };
    match list.iter().find(|n| role.forbids(n)) {
        Some(name) => Err(Error::bad_request(format!("token policy {name:?} is disallowed by this role"))),
        None => Ok(list),
    }
}

fn quoted(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|n| format!("{n:?}")).collect();
    format!("[{}]", words.join(" "))
}
