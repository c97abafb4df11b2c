//! The connector: HTTP on a port of this machine, and what tests do to it and to the device behind it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::code::{self, WRAP_KEY};
use crate::device::Device;
use crate::object::RECORDS;

/// Below the ports that the system gives out by itself, and none that other parts of the tests choose: tests/src/connection.rs
/// has those before, tests/src/tpm.rs those behind.
const FIRST_PORT: u16 = 14_000;
const PLACES: u16 = 3_000;
/// Longer answers are sent in chunks, as Go's server sends long ones.
const WHOLE_BYTES: usize = 512;
const MAX_HEADERS: usize = 32;
/// How soon one that hangs notices that it goes on.
const HANGING: Duration = Duration::from_millis(10);

/// A simulator of a YubiHSM 2 behind its connector. It is no YubiHSM.
pub struct Simulator {
    shared: Arc<Shared>,
    port: u16,
    listening: Option<JoinHandle<()>>,
    /// The port behind the connector's, which is bound as long as the simulator lives: another simulator that finds it
    /// taken leaves the connector's alone too, while the connector is away.
    _place: TcpListener,
}

struct Shared {
    device: Mutex<Device>,
    ends: AtomicBool,
    /// The device is not plugged in.
    unplugged: AtomicBool,
    /// The connector takes requests and answers none.
    hangs: AtomicBool,
    /// Its answers are bytes that mean nothing.
    babbles: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(7_550_001);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Simulator {
    /// A new device, as it leaves the factory, and its connector.
    pub fn start() -> Simulator {
        let shared = Arc::new(Shared {
            device: Mutex::new(Device::new(serial())),
            ends: AtomicBool::new(false),
            unplugged: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            babbles: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let begin = std::process::id() as u16 % PLACES;
        let found = (0..PLACES).find_map(|step| {
            let port = FIRST_PORT + (begin + step) % PLACES * 2;
            let place = TcpListener::bind(("127.0.0.1", port + 1)).ok()?;
            TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener, place))
        });
        let (port, listener, place) = found.expect("two free ports");
        let mut simulator = Simulator { shared, port, listening: None, _place: place };
        simulator.listen(listener);
        simulator
    }

    /// As configurations and yubihsm-shell name it.
    pub fn connector(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The device's serial number.
    pub fn serial(&self) -> u32 {
        self.shared.device().serial
    }

    /// The connector ends, and with it every connection. The device remembers all.
    pub fn kill(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        self.shared.ends.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        listening.join().expect("the listener ends");
        for connection in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _closed_already = connection.shutdown(Shutdown::Both);
        }
    }

    /// The connector is started again.
    pub fn start_again(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("the port is still free");
        self.shared.ends.store(false, Ordering::SeqCst);
        self.listen(listener);
    }

    /// The device is pulled out, or plugged in again.
    pub fn unplug(&self, unplugged: bool) {
        self.shared.unplugged.store(unplugged, Ordering::SeqCst);
    }

    /// The connector takes what is asked and does not answer, or goes on and answers to all that it has taken.
    pub fn hang(&self, hangs: bool) {
        self.shared.hangs.store(hangs, Ordering::SeqCst);
    }

    /// In place of the device's answers come bytes that mean nothing, as long as these are.
    pub fn babble(&self, babbles: bool) {
        self.shared.babbles.store(babbles, Ordering::SeqCst);
    }

    /// Carries a command out as a session of an authentication key would have it.
    ///
    /// # Errors
    /// The number of the refusal.
    pub fn command(&self, authority: u16, command: u8, data: &[u8]) -> Result<Vec<u8>, u8> {
        let answer = self.shared.device().command_of(authority, command, data);
        match answer.as_slice() {
            [code::ERROR, _, _, refusal] => Err(*refusal),
            [_, _, _, data @ ..] => Ok(data.to_vec()),
            _ => Err(0),
        }
    }

    /// The log loses its newest entry, as no device does by itself.
    pub fn lose_log_entry(&self) {
        self.shared.device().log.lose_newest();
    }

    /// The device loses its power and has it again: sessions are gone, objects stay.
    pub fn power_cycle(&self) {
        let mut device = self.shared.device();
        device.sessions.end_all();
        device.log.booted();
    }

    /// Another device is plugged in, as it leaves the factory.
    pub fn exchange(&self) {
        *self.shared.device() = Device::new(serial());
    }

    /// As the button, or `yubihsm-shell -a reset`, resets it.
    pub fn reset(&self) {
        self.shared.device().reset();
    }

    /// The device's clock moves.
    pub fn pass(&self, time: Duration) {
        self.shared.device().moved += time;
    }

    /// Every answer that passes the channel is changed on its way.
    pub fn tamper(&self, tampers: bool) {
        self.shared.device().tampers = tampers;
    }

    /// Adds or replaces an authentication key. Domain 1 is the lowest bit.
    pub fn authentication_key(&self, id: u16, password: &str, domains: u16, capabilities: u64, delegated: u64) {
        self.shared.device().add_authentication_key(id, password, domains, capabilities, delegated);
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.shared.device().sessions.count()
    }

    /// Messages that came.
    pub fn commands(&self) -> u64 {
        self.shared.device().commands
    }

    /// No place is left for another object.
    pub fn fill(&self) {
        let mut device = self.shared.device();
        device.objects.room = device.objects.len();
    }

    /// As many places as a new one has.
    pub fn make_room(&self) {
        self.shared.device().objects.room = RECORDS;
    }

    /// Every command is logged, and none is carried out that cannot be.
    pub fn force_audit(&self) {
        let mut device = self.shared.device();
        let never = [code::ECHO, code::DEVICE_INFO, code::SESSION_MESSAGE, code::GET_LOG_ENTRIES];
        device.log.audited =
            (0..ERRORS).filter(|command| !never.contains(command)).map(|command| (command, 1)).collect();
        device.log.force = 1;
    }

    /// Entries of the log that wait to be acknowledged.
    pub fn log_used(&self) -> u8 {
        self.shared.device().log.used()
    }

    /// Takes the wrap keys of another device, as a backup under wrap brings them.
    pub fn copy_wrap_keys(&self, from: &Simulator) {
        let keys: Vec<_> =
            from.shared.device().objects.all().filter(|object| object.kind == WRAP_KEY).cloned().collect();
        let mut device = self.shared.device();
        for key in keys {
            device.objects.add(key).expect("there is room");
        }
    }

    fn listen(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.listening = Some(thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let kept = stream.try_clone().expect("a socket can be cloned");
                shared.connections.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(&shared, stream));
            }
        }));
    }
}

/// The code of an error; commands are below.
const ERRORS: u8 = code::ERROR;

impl Drop for Simulator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Requests of one connection, until it ends.
fn serve(shared: &Shared, stream: TcpStream) {
    let _without = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some((method, path, body)) = request(&mut reader) {
        while shared.hangs.load(Ordering::SeqCst) {
            if shared.ends.load(Ordering::SeqCst) {
                return;
            }
            thread::sleep(HANGING);
        }
        let unplugged = shared.unplugged.load(Ordering::SeqCst);
        let (status, mut answer) = match (method.as_str(), path.as_str()) {
            ("POST", "/connector/api") if unplugged => ("503 Service Unavailable", Vec::new()),
            ("POST", "/connector/api") => ("200 OK", shared.device().process(&body)),
            ("GET", "/connector/status") => {
                let status = if unplugged { "NO_DEVICE" } else { "OK" };
                let serial = shared.device().serial;
                let text =
                    format!("status={status}\nserial={serial}\nversion=3.0.5\npid=1\naddress=127.0.0.1\nport=0\n");
                ("200 OK", text.into_bytes())
            }
            _ => ("404 Not Found", Vec::new()),
        };
        if shared.babbles.load(Ordering::SeqCst) {
            answer.fill(0xa5);
        }
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\n");
        let answer = match answer.len() <= WHOLE_BYTES {
            true => [format!("{head}Content-Length: {}\r\n\r\n", answer.len()).as_bytes(), &answer].concat(),
            false => {
                let mut text = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                for chunk in answer.chunks(WHOLE_BYTES) {
                    text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    text.extend_from_slice(chunk);
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"0\r\n\r\n");
                text
            }
        };
        if reader.get_mut().write_all(&answer).is_err() {
            return;
        }
    }
}

/// Method, path and body; `None`: the connection has ended, or speaks something else.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, String, Vec<u8>)> {
    let mut line = || {
        let mut text = String::new();
        (reader.read_line(&mut text).ok()? > 0).then(|| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    for _ in 0..MAX_HEADERS {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok().filter(|length| *length <= 8192)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_port_of_a_connector_that_is_away() {
        let mut first = Simulator::start();
        first.kill();
        let second = Simulator::start();
        assert_ne!(second.port, first.port);
        first.start_again();
    }
}
