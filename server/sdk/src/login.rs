//! Logins: what an auth method's engine finds out, and of which the core makes a token.

/// Which type of token a login gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoginTokenType {
    /// As the mount is tuned.
    #[default]
    Default,
    Service,
    Batch,
}

/// Who logged in: together with the mount this is an entity's alias.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alias {
    /// As the method knows the caller. Not shown in answers, but in identity.
    pub name: String,
    /// Written to the alias at each login.
    pub metadata: Vec<(String, String)>,
}

/// A caller has shown who it is. An engine answers a login with it ([`Response::login`](crate::Response::login));
/// the core finds or makes the entity, keeps to the mount's limits, makes the token and answers.
#[derive(Debug, Clone)]
pub struct Login {
    /// None: the token has no entity.
    pub alias: Option<Alias>,
    /// Groups that the method's source says the caller is in, for external groups. None: the method knows no groups.
    pub group_aliases: Option<Vec<String>>,
    /// What the method calls the caller. The audit log and lookups show it behind the mount's path: `userpass-bob`.
    /// Empty: the path alone.
    pub display_name: String,
    pub policies: Vec<String>,
    pub no_default_policy: bool,
    /// Shown with the token, and in the audit log.
    pub metadata: Vec<(String, String)>,
    /// 0: the mount's.
    pub ttl_secs: u64,
    /// 0: the mount's.
    pub max_ttl_secs: u64,
    /// 0: not periodic.
    pub period_secs: u64,
    /// 0: none.
    pub explicit_max_ttl_secs: u64,
    /// 0: no limit.
    pub num_uses: i64,
    /// As [`AddressBlock`](crate::AddressBlock) writes them; empty: any.
    pub bound_cidrs: Vec<String>,
    pub token_type: LoginTokenType,
    pub renewable: bool,
    /// Under which name live tokens are counted: a role's.
    pub counted_as: String,
    /// Kept with the token for [`Backend::renew_login`](crate::Backend::renew_login), and never shown.
    pub internal: Vec<(String, String)>,
}

impl Default for Login {
    fn default() -> Login {
        Login {
            alias: None,
            group_aliases: None,
            display_name: String::new(),
            policies: Vec::new(),
            no_default_policy: false,
            metadata: Vec::new(),
            ttl_secs: 0,
            max_ttl_secs: 0,
            period_secs: 0,
            explicit_max_ttl_secs: 0,
            num_uses: 0,
            bound_cidrs: Vec::new(),
            token_type: LoginTokenType::Default,
            renewable: true,
            counted_as: String::new(),
            internal: Vec::new(),
        }
    }
}

/// What counts at the renewal of a login's token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewal {
    /// If they are not those of the token, it is not renewed.
    pub policies: Vec<String>,
    pub no_default_policy: bool,
    /// 0: the mount's.
    pub ttl_secs: u64,
    /// 0: the mount's.
    pub max_ttl_secs: u64,
    /// 0: not periodic.
    pub period_secs: u64,
}
