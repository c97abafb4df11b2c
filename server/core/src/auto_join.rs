//! `auto_join`: nodes of a cluster that are found without each being named in a stanza of its own. There is one
//! provider, a list: `provider=static addrs=10.0.0.1,n2.example.com,10.0.0.3:8300`.

const PORT: u64 = 8200;
/// Nodes of one list at most.
const NODES: usize = 64;

/// The API addresses of the nodes that a text names, with `auto_join_scheme` and `auto_join_port` where it says nothing.
pub fn addresses(text: &str, scheme: Option<&str>, port: Option<u64>) -> Result<Vec<String>, String> {
    let (mut provider, mut nodes) = (None, None);
    for part in text.split_whitespace() {
        match part.split_once('=') {
            Some(("provider", name)) => provider = Some(name),
            Some(("addrs", list)) => nodes = Some(list.trim_matches('"')),
            _ => return Err(format!("auto_join: {part:?} is not known: write provider=static addrs=HOST,HOST:PORT")),
        }
    }
    match provider {
        Some("static") => {}
        Some(other) => {
            return Err(format!(
                "auto_join: the provider {other:?} is not offered; there is: static, a list of addresses"
            ));
        }
        None => return Err("auto_join: no provider is named: write provider=static addrs=HOST,HOST:PORT".into()),
    }
    let scheme = scheme.filter(|s| !s.is_empty()).unwrap_or("https");
    if !["http", "https"].contains(&scheme) {
        return Err(format!("auto_join_scheme is http or https, not {scheme:?}"));
    }
    let port = port.filter(|p| *p != 0).unwrap_or(PORT);
    if port > 65_535 {
        return Err(format!("auto_join_port: {port} is no port"));
    }
    let nodes: Vec<&str> = nodes.unwrap_or("").split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    if nodes.is_empty() || nodes.len() > NODES {
        return Err(format!("auto_join: addrs names 1 to {NODES} nodes, separated by commas"));
    }
    nodes.into_iter().map(|node| address(node, scheme, port)).collect()
}

fn address(node: &str, scheme: &str, port: u64) -> Result<String, String> {
    // An IPv6 address without brackets is all colons.
    let is_v6 = node.matches(':').count() > 1 && !node.starts_with('[');
    let (host, own_port) = match node.rsplit_once(':') {
        Some((host, port)) if !is_v6 && !port.contains(']') => (host, Some(port)),
        _ => (node, None),
    };
    let is_port = |p: &str| p.parse::<u16>().is_ok_and(|p| p != 0);
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if host.is_empty() || !host.chars().all(is_host) || !own_port.is_none_or(is_port) {
        return Err(format!("auto_join: {node:?} is no HOST or HOST:PORT"));
    }
    let port = own_port.map_or_else(|| port.to_string(), str::to_owned);
    Ok(if is_v6 { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_nodes_with_what_they_have_in_common() {
        let text = "provider=static addrs=10.0.0.1,n2.example.com:8300,[fd00::3],fd00::4";
        let https = [
            "https://10.0.0.1:8200",
            "https://n2.example.com:8300",
            "https://[fd00::3]:8200",
            "https://[fd00::4]:8200",
        ];
        assert_eq!(addresses(text, None, None).unwrap(), https);
        let http = addresses("provider=static addrs=\"a,b\"", Some("http"), Some(8100)).unwrap();
        assert_eq!(http, ["http://a:8100", "http://b:8100"]);
    }

    #[test]
    fn what_is_no_list_is_refused_with_what_is_wrong() {
        for (text, says) in [
            ("", "no provider"),
            ("provider=aws tag_key=x", "tag_key"),
            ("provider=aws", "\"aws\" is not offered"),
            ("provider=static", "1 to 64"),
            ("provider=static addrs=,", "1 to 64"),
            ("provider=static addrs=a:0", "\"a:0\""),
            ("provider=static addrs=a:b", "\"a:b\""),
            ("provider=static addrs=http://a", "\"http://a\""),
            ("provider=static addrs=a/b", "\"a/b\""),
        ] {
            let said = addresses(text, None, None).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
        assert!(addresses("provider=static addrs=a", Some("ftp"), None).is_err());
        assert!(addresses("provider=static addrs=a", None, Some(70_000)).is_err());
    }
}
