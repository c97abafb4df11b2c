//! `connection_url` of PostgreSQL: `postgres://…`, or words `key=value`.
//!
//! It is taken apart first and filled in afterwards, so that no character of a user name or password has a
//! meaning in it; with `disable_escaping` the other way round.

/// Where to connect, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Address {
    /// With ports.
    pub hosts: Vec<(String, u16)>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: Option<String>,
    /// All else, in order.
    pub settings: Vec<(String, String)>,
}

const PORT: u16 = 5432;

/// What stands for the placeholders.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    pub username: &'a str,
    pub password: &'a str,
    pub escaped_by_hand: bool,
}

pub fn parse(url: &str, login: Login<'_>) -> Result<Address, String> {
    let fill = |text: &str| text.replace("{{username}}", login.username).replace("{{password}}", login.password);
    let (text, inside): (String, &dyn Fn(&str) -> String) = match login.escaped_by_hand {
        true => (fill(url), &|part| part.to_owned()),
        false => (url.to_owned(), &fill),
    };
    match text.split_once("://") {
        Some(("postgres" | "postgresql", rest)) => parse_url(rest, inside),
        Some((scheme, _)) => Err(format!("the scheme {scheme:?} is none of PostgreSQL's")),
        None => parse_words(&text, inside),
    }
}

/// Whether the password is written into the address itself.
pub fn has_password(url: &str) -> bool {
    let nobody = Login { username: "", password: "", escaped_by_hand: false };
    parse(url, nobody).is_ok_and(|a| a.password.is_some_and(|p| !p.is_empty()))
}

/// The address without the password that is written into it.
pub fn without_password(url: &str) -> String {
    if !has_password(url) {
        return url.to_owned();
    }
    if let Some((scheme, rest)) = url.split_once("://")
        && let Some((user_info, host)) = rest.split(['/', '?']).next().and_then(|a| a.rsplit_once('@'))
        && let Some((user, _)) = user_info.split_once(':')
    {
        let behind = &rest[user_info.len() + 1 + host.len()..];
        return format!("{scheme}://{user}:xxxxx@{host}{behind}");
    }
    let words = words(url).unwrap_or_default();
    let shown =
        |(k, v): (String, String)| if k == "password" { format!("{k}=xxxxx") } else { format!("{k}={}", quoted(&v)) };
    words.into_iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn quoted(value: &str) -> String {
    match value.is_empty() || value.contains([' ', '\'', '\\']) {
        true => format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'")),
        false => value.to_owned(),
    }
}

fn parse_url(rest: &str, fill: &dyn Fn(&str) -> String) -> Result<Address, String> {
    let mut address = Address::default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let (user_info, hosts) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    if let Some(info) = user_info {
        let (user, password) = info.split_once(':').map_or((info, None), |(u, p)| (u, Some(p)));
        address.user = Some(user_part(user, fill)?);
        address.password = password.map(|p| user_part(p, fill)).transpose()?;
    }
    for host in hosts.split(',').filter(|h| !h.is_empty()) {
        address.hosts.push(host_and_port(&fill(host))?);
    }
    let (path, query) = behind.split_once('?').map_or((behind, ""), |(p, q)| (p, q));
    let database = decoded(path.trim_start_matches('/'))?;
    address.database = Some(fill(&database)).filter(|d| !d.is_empty());
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        address.set(decoded(key)?, fill(&decoded(value)?))?;
    }
    Ok(address)
}

fn user_part(text: &str, fill: &dyn Fn(&str) -> String) -> Result<String, String> {
    let bare = text.replace("{{username}}", "").replace("{{password}}", "");
    if bare.contains(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | '<' | '>' | '"' | '`' | '^' | '[' | ']')) {
        return Err("invalid userinfo".into());
    }
    Ok(fill(&decoded(text)?))
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let bad = |port: &str| format!("invalid port \":{port}\" after host");
    // An IPv6 address is in brackets.
    if let Some((host, after)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        let port = after.strip_prefix(':').map_or(Ok(PORT), |p| p.parse().map_err(|_| bad(p)))?;
        return Ok((host.to_owned(), port));
    }
    match decoded(text)?.split_once(':') {
        Some((host, port)) => Ok((host.to_owned(), port.parse().map_err(|_| bad(port))?)),
        None => Ok((decoded(text)?, PORT)),
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return Err("invalid URL escape".into()),
        }
    }
    String::from_utf8(out).map_err(|_| "it is not UTF-8".into())
}

fn parse_words(text: &str, fill: &dyn Fn(&str) -> String) -> Result<Address, String> {
    let mut address = Address::default();
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for (key, value) in words(text)? {
        let value = fill(&value);
        match key.as_str() {
            "host" | "hostaddr" => hosts = value.split(',').map(str::to_owned).collect(),
            "port" => ports = value.split(',').map(str::to_owned).collect(),
            _ => address.set(key, value)?,
        }
    }
    for (n, host) in hosts.into_iter().enumerate() {
        let port = ports.get(n).or(ports.first()).filter(|p| !p.is_empty());
        let port = port.map_or(Ok(PORT), |p| p.parse().map_err(|_| format!("invalid port {p:?}")))?;
        address.hosts.push((host, port));
    }
    Ok(address)
}

/// `key = value` and `key='a \'quoted\' value'`.
fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let bad = || "invalid keyword/value".to_owned();
    let (mut out, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(bad)?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(bad());
        }
        let after = after.trim_start();
        let (value, behind) = match after.strip_prefix('\'') {
            Some(quoted) => quoted_word(quoted).ok_or_else(bad)?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        out.push((key.to_owned(), value));
        rest = behind.trim_start();
    }
    Ok(out)
}

fn quoted_word(text: &str) -> Option<(String, &str)> {
    let (mut out, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[at + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

impl Address {
    fn set(&mut self, key: String, value: String) -> Result<(), String> {
        match key.as_str() {
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "dbname" | "database" => self.database = Some(value),
            "host" => self.hosts = vec![(value, PORT)],
            "port" => {
                let port = value.parse().map_err(|_| format!("invalid port {value:?}"))?;
                self.hosts.iter_mut().for_each(|h| h.1 = port);
            }
            _ => self.settings.push((key, value)),
        }
        Ok(())
    }

    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "postgresql://{{username}}:{{password}}@db.example:6000/shop?sslmode=disable&search_path=a";

    fn login<'a>(username: &'a str, password: &'a str) -> Login<'a> {
        Login { username, password, escaped_by_hand: false }
    }

    #[test]
    fn every_printable_character_may_be_in_a_user_name_and_a_password() {
        let all: String = (' '..='~').collect();
        for url in [URL, "host=db.example port=6000 user={{username}} password='{{password}}' dbname=shop"] {
            let address = parse(url, login(&all, &all)).unwrap();
            assert_eq!((address.user.as_ref(), address.password.as_ref()), (Some(&all), Some(&all)), "{url}");
            assert_eq!(address.hosts, [("db.example".to_owned(), 6000)]);
            assert_eq!(address.database.as_deref(), Some("shop"));
        }
    }

    #[test]
    fn addresses_are_taken_apart() {
        let a = parse(URL, login("u", "p")).unwrap();
        assert_eq!((a.setting("sslmode"), a.setting("search_path")), (Some("disable"), Some("a")));
        let a = parse("postgres://u@a:1,b,[::1]:3/", login("", "")).unwrap();
        assert_eq!(a.hosts, [("a".into(), 1), ("b".into(), PORT), ("::1".into(), 3)]);
        assert_eq!((a.password, a.database), (None, None));
        let by_hand = Login { username: "odd", password: "p%40s", escaped_by_hand: true };
        assert_eq!(parse(URL, by_hand).unwrap().password.as_deref(), Some("p@s"));
        assert!(parse(URL, Login { password: "p#%&+", ..by_hand }).is_err());
    }

    #[test]
    fn what_is_none_is_refused() {
        for url in [
            "nonsense",
            "mysql://{{username}}@h/",
            "postgresql://{{ username }}:x@h/",
            "postgresql://{{user}}:x@h/",
            "postgresql://u:p@h:port/",
            "host='open",
        ] {
            assert!(parse(url, login("u", "p")).is_err(), "{url}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_not_shown() {
        assert!(!has_password(URL));
        assert_eq!(without_password(URL), URL);
        let shown = without_password("postgresql://boss:secret@h:1/d?sslmode=disable");
        assert_eq!(shown, "postgresql://boss:xxxxx@h:1/d?sslmode=disable");
        assert_eq!(without_password("host=h password='a b' user=u"), "host=h password=xxxxx user=u");
    }
}
