//! `sys/raw`: stored entries as they are, decrypted. For who repairs a store by hand; off unless the
//! configuration has `raw_storage_endpoint`.

mod compression;
mod place;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_sdk::{Call, Error, Map, Record, Response, Result, Routes, parameters, record};

use super::System;
use super::audited_headers::AuditedHeaders;
use super::cors::Cors;
use crate::layout::{MOUNTS, SETTINGS, STORE, table_of};
use crate::router::{MountEntry, Router};
use crate::tx::Tx;

parameters! {
    pub struct Reading {
        /// Whether a compressed entry is decompressed; true if it is left out.
        compressed: Option<bool>,
        /// base64, or nothing for text.
        encoding: Option<String>,
    }
}
parameters! {
    pub struct Writing {
        /// The entry.
        value: Option<String>,
        /// gzip, or nothing; what is compressed stays so if it is left out.
        compression_type: Option<String>,
        /// How the value is given: base64, or nothing for text.
        encoding: Option<String>,
    }
}
parameters! {
    pub struct Paging {
        /// The name to begin behind.
        after: Option<String>,
        /// How many names at most.
        limit: Option<i64>,
    }
}

pub fn routes(routes: Routes<System, Tx>) -> Routes<System, Tx> {
    routes.path("raw/{path...}", "A stored entry, decrypted.", |p| {
        p.read(read).write(exists, write).delete(delete).list(list).root_protected()
    })
}

/// Without the switch there is no such route.
fn router(sys: &System) -> Result<std::sync::Arc<Router>> {
    let core = sys.core()?;
    if !core.options.endpoints.raw_storage {
        return Err(Error::UnsupportedPath);
    }
    let open = core.open().ok_or_else(|| Error::Unavailable("Vault is sealed".into()))?;
    core.router(&open)
}

fn key(tx: &mut Tx, router: &Router, path: &str) -> Result<Option<Vec<u8>>> {
    place::key(tx, router, path.trim_end_matches('/'))
}

fn exists(sys: &System, tx: &mut Tx, call: &Call<'_>) -> Result<Option<bool>> {
    // What is wrong with the path is said to who may write there.
    match key(tx, &*router(sys)?, call.capture("path")) {
        Ok(Some(key)) => Ok(Some(tx.get_key(&key)?.is_some())),
        _ => Ok(None),
    }
}

/// True for base64.
fn is_base64(encoding: Option<&str>) -> Result<bool> {
    match encoding {
        None | Some("") => Ok(false),
        Some("base64") => Ok(true),
        Some(other) => Err(Error::bad_request(format!("invalid encoding {other:?}"))),
    }
}

fn read(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Reading) -> Result<Response> {
    read_at(tx, &*router(sys)?, call.capture("path"), p)
}

pub fn read_at(tx: &mut Tx, router: &Router, path: &str, p: Reading) -> Result<Response> {
    let base64 = is_base64(p.encoding.as_deref())?;
    let key = key(tx, router, path)?.ok_or(Error::NotFound)?;
    let stored = tx.get_key(&key)?.ok_or(Error::NotFound)?;
    let shown = match p.compressed.unwrap_or(true) {
        true => compression::decompress(stored)?,
        false => stored,
    };
    let text = if base64 { STANDARD.encode(&shown) } else { String::from_utf8_lossy(&shown).into_owned() };
    let mut m = Map::new();
    m.insert("value".into(), text.into());
    Ok(Response::data(m))
}

fn write(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Writing) -> Result<Response> {
    write_at(tx, &*router(sys)?, call.capture("path"), p)
}

pub fn write_at(tx: &mut Tx, router: &Router, path: &str, p: Writing) -> Result<Response> {
    let value = p.value.unwrap_or_default();
    let value = match is_base64(p.encoding.as_deref())? {
        true => STANDARD.decode(&value).map_err(|e| Error::bad_request(format!("illegal base64 data: {e}")))?,
        false => value.into_bytes(),
    };
    let place = key(tx, router, path)?;
    let key = place.ok_or_else(|| {
        Error::bad_request("sys/raw has no such place: list the folder to see how it names its entries")
    })?;
    let compress = match p.compression_type.as_deref() {
        None => tx.get_key(&key)?.is_some_and(|stored| compression::is_compressed(&stored)),
        Some("") => false,
        Some("gzip") => true,
        Some(other) => return Err(Error::bad_request(format!("invalid compression type {other:?}"))),
    };
    let value = if compress { compression::compress(&value)? } else { value };
    check_record(&key, &value)?;
    tx.put_key(key, value)?;
    Ok(Response::empty())
}

/// What every request needs must stay readable, or nothing could be repaired any more.
fn check_record(key: &[u8], value: &[u8]) -> Result<()> {
    fn readable<T: Record>(value: &[u8]) -> Result<()> {
        let read: Result<T> = record::read(value);
        read.map(drop)
            .map_err(|_| Error::bad_request("the server could not read this record, and every request needs it"))
    }
    let behind = key.get(STORE.prefix().len() + 1..).unwrap_or(&[]);
    match table_of(key, &STORE) {
        Some(MOUNTS) => readable::<MountEntry>(value),
        Some(SETTINGS) if behind == super::cors::NAME => readable::<Cors>(value),
        Some(SETTINGS) if behind == super::audited_headers::NAME => readable::<AuditedHeaders>(value),
        _ => Ok(()),
    }
}

fn delete(sys: &System, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    delete_at(tx, &*router(sys)?, call.capture("path"))
}

pub fn delete_at(tx: &mut Tx, router: &Router, path: &str) -> Result<Response> {
    if let Some(key) = key(tx, router, path)? {
        tx.delete_key(key)?;
    }
    Ok(Response::empty())
}

fn list(sys: &System, tx: &mut Tx, call: &Call<'_>, p: Paging) -> Result<Response> {
    list_at(tx, &*router(sys)?, call.capture("path"), p)
}

pub fn list_at(tx: &mut Tx, router: &Router, path: &str, p: Paging) -> Result<Response> {
    let folder = path.trim_end_matches('/');
    let limit = usize::try_from(p.limit.unwrap_or(0)).unwrap_or(0);
    Response::list(place::list(tx, router, folder, p.after.as_deref().unwrap_or(""), limit)?)
}
