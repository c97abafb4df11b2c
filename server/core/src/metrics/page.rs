//! The text that Prometheus reads.

use std::fmt::Write;

use super::times::{QUANTILES, Times};

#[derive(Default)]
pub struct Page(pub String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _cannot_fail = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        let _cannot_fail = writeln!(self.0, "{name} {value}");
    }

    /// A series for each set of labels. Without any, nothing is written.
    pub fn series<'l>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        all: impl Iterator<Item = (Vec<(&'l str, &'l str)>, f64)>,
    ) {
        let mut all = all.peekable();
        if all.peek().is_some() {
            self.head(name, kind, help);
        }
        for (labels, value) in all {
            self.line(name, &labels, value);
        }
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
        let _cannot_fail = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    /// A summary in milliseconds, as Vault has them.
    pub fn times(&mut self, name: &str, help: &str, times: &Times) {
        self.times_of((name, help), std::iter::once((Vec::new(), times)));
    }

    /// The same for each set of labels.
    pub fn times_of<'l>(
        &mut self,
        (name, help): (&str, &str),
        all: impl Iterator<Item = (Vec<(&'l str, &'l str)>, &'l Times)>,
    ) {
        let mut all = all.peekable();
        if all.peek().is_some() {
            self.head(name, "summary", help);
        }
        for (labels, times) in all {
            let found = times.quantiles();
            for (at, (quantile, _)) in QUANTILES.iter().enumerate() {
                let ms = found.map_or(f64::NAN, |f| f[at].as_secs_f64() * 1e3);
                self.line(name, &[&labels[..], &[("quantile", quantile)]].concat(), ms);
            }
            self.line(&format!("{name}_sum"), &labels, times.sum().as_secs_f64() * 1e3);
            self.line(&format!("{name}_count"), &labels, times.count.get() as f64);
        }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
