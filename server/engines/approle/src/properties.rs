//! One property of a role at a path of its own: `role/:role_name/token-ttl`, and its like.

use holdfast_sdk::parameters::Seconds;
use holdfast_sdk::token_parameters::seconds;
use holdfast_sdk::{
    Call, Error, Map, OldNames, Parameters, Response, Result, Routes, TokenFields, Tx, Value, parameters,
};

use crate::roles::{Role, blocks};
use crate::{Approle, role_name};

/// All properties but the role's id.
pub fn declare(routes: Routes<Approle>) -> Routes<Approle> {
    let local = "Whether secret ids are local to the cluster.";
    let routes = routes.path("role/{role_name}/local-secret-ids", local, |p| p.read(read_local_secret_ids));
    let routes = property::<Policies>(routes, "policies", "Policies of a role's tokens.");
    let routes = property::<NumUses>(routes, "secret-id-num-uses", "How often a role's secret ids may be used.");
    let routes = property::<Ttl>(routes, "secret-id-ttl", "How long a role's secret ids live.");
    let routes = property::<TokenTtl>(routes, "token-ttl", "How long a role's tokens live at first.");
    let routes = property::<TokenMaxTtl>(routes, "token-max-ttl", "How long a role's tokens live at most.");
    let routes = property::<TokenNumUses>(routes, "token-num-uses", "How often a role's tokens may be used.");
    let routes = property::<Period>(routes, "period", "The period of a role's tokens.");
    let routes = property::<BindSecretId>(routes, "bind-secret-id", "Whether a login needs a secret id.");
    let routes = property::<Blocks>(routes, "secret-id-bound-cidrs", "From where secret ids may be used.");
    let routes = property::<OldBlocks>(routes, "bound-cidr-list", "The old name of secret-id-bound-cidrs.");
    property::<TokenBlocks>(routes, "token-bound-cidrs", "Networks that a role's tokens are bound to.")
}

fn property<P: Property>(routes: Routes<Approle>, path: &str, synopsis: &'static str) -> Routes<Approle> {
    routes.path(&format!("role/{{role_name}}/{path}"), synopsis, |p| {
        p.read(read::<P>).update(write::<P>).delete(delete::<P>)
    })
}

/// One property, as a request names it.
trait Property: Parameters + 'static {
    fn show(role: &Role, out: &mut Map<String, Value>);
    /// Take over what is named. False: nothing is.
    fn change(self, role: &mut Role) -> Result<bool>;
    fn reset(role: &mut Role);
    /// What is said if nothing is named; empty: that is fine, and changes nothing.
    const MISSING: &'static str;
    /// Said with each read.
    const WARNING: &'static str = "";
}

fn read<P: Property>(_: &Approle, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let role = Role::load(tx, &role_name(call))?.ok_or(Error::NotFound)?;
    let mut data = Map::new();
    P::show(&role, &mut data);
    let response = Response::data(data);
    Ok(if P::WARNING.is_empty() { response } else { response.warn(P::WARNING) })
}

fn write<P: Property>(_: &Approle, tx: &mut Tx, call: &Call<'_>, p: P) -> Result<Response> {
    let name = role_name(call);
    let mut role = Role::load(tx, &name)?.ok_or(Error::UnsupportedPath)?;
    match (p.change(&mut role)?, P::MISSING) {
        (true, _) => role.save(tx, &name)?,
        (false, "") => {}
        (false, missing) => return Err(Error::bad_request(missing)),
    }
    Ok(Response::empty())
}

fn delete<P: Property>(_: &Approle, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let name = role_name(call);
    if let Some(mut role) = Role::load(tx, &name)? {
        P::reset(&mut role);
        role.save(tx, &name)?;
    }
    Ok(Response::empty())
}

fn read_local_secret_ids(_: &Approle, tx: &mut Tx, call: &Call<'_>, _: ()) -> Result<Response> {
    let role = Role::load(tx, &role_name(call))?.ok_or(Error::NotFound)?;
    let mut data = Map::new();
    data.insert("local_secret_ids".into(), role.local_secret_ids.into());
    Ok(Response::data(data))
}

/// What a read of the role shows, of these names.
fn shown_of(role: &Role, names: &[&str], out: &mut Map<String, Value>) {
    let mut all = Map::new();
    role.tokens.show(&mut all);
    for name in names {
        if let Some(value) = all.remove(*name) {
            out.insert((*name).to_owned(), value);
        }
    }
}

/// A list that was never given, or taken back, is null.
fn or_null(list: Option<&Vec<String>>) -> Value {
    list.map_or(Value::Null, |l| l.clone().into())
}

parameters! {
    struct Policies {
        /// Policies of the role's tokens.
        token_policies: Option<Vec<String>>,
        /// The old name of token_policies.
        policies: Option<Vec<String>>,
    }
}

impl Property for Policies {
    const MISSING: &'static str = "missing token_policies";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        shown_of(role, &["token_policies", "policies"], out);
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        if self.token_policies.is_none() && self.policies.is_none() {
            return Ok(false);
        }
        // Here alone they are put in order, as the reference does.
        let in_order = |list: Vec<String>| {
            let mut list: Vec<String> = list.iter().map(|p| p.trim().to_lowercase()).collect();
            list.sort();
            list
        };
        let new = TokenFields { token_policies: self.token_policies.map(in_order), ..TokenFields::default() };
        role.tokens.change(new, OldNames { policies: self.policies.map(in_order), ..OldNames::default() })?;
        Ok(true)
    }
    fn reset(role: &mut Role) {
        role.tokens.policies.clear();
    }
}

parameters! {
    struct NumUses {
        /// How often a secret id may be used; 0 is no limit.
        secret_id_num_uses: Option<i64>,
    }
}

impl Property for NumUses {
    const MISSING: &'static str = "missing secret_id_num_uses";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        out.insert("secret_id_num_uses".into(), role.secret_id_num_uses.into());
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        self.secret_id_num_uses.map_or(Ok(false), |n| role.set_num_uses(n).map(|()| true))
    }
    fn reset(role: &mut Role) {
        role.secret_id_num_uses = 0;
    }
}

parameters! {
    struct Ttl {
        /// How long a secret id lives; 0 is no limit.
        secret_id_ttl: Option<Seconds>,
    }
}

impl Property for Ttl {
    const MISSING: &'static str = "missing secret_id_ttl";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        out.insert("secret_id_ttl".into(), role.secret_id_ttl_secs.into());
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        let Some(ttl) = self.secret_id_ttl else { return Ok(false) };
        role.secret_id_ttl_secs = seconds("secret_id_ttl", ttl)?;
        Ok(true)
    }
    fn reset(role: &mut Role) {
        role.secret_id_ttl_secs = 0;
    }
}

parameters! {
    struct TokenTtl {
        /// How long the tokens live at first; 0 is the mount's default.
        token_ttl: Option<Seconds>,
    }
}

impl Property for TokenTtl {
    const MISSING: &'static str = "missing token_ttl";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        shown_of(role, &["token_ttl"], out);
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        let named = self.token_ttl.is_some();
        let new = TokenFields { token_ttl: self.token_ttl, ..TokenFields::default() };
        role.tokens.change(new, OldNames::default())?;
        Ok(named)
    }
    fn reset(role: &mut Role) {
        role.tokens.ttl_secs = 0;
    }
}

parameters! {
    struct TokenMaxTtl {
        /// How long the tokens live at most; 0 is the mount's maximum.
        token_max_ttl: Option<Seconds>,
    }
}

impl Property for TokenMaxTtl {
    const MISSING: &'static str = "missing token_max_ttl";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        shown_of(role, &["token_max_ttl"], out);
    }
    /// A maximum below the role's `token_ttl` is taken here: the login caps.
    fn change(self, role: &mut Role) -> Result<bool> {
        let Some(max) = self.token_max_ttl else { return Ok(false) };
        role.tokens.max_ttl_secs = seconds("token_max_ttl", max)?;
        Ok(true)
    }
    fn reset(role: &mut Role) {
        role.tokens.max_ttl_secs = 0;
    }
}

parameters! {
    struct TokenNumUses {
        /// How often a token may be used; 0 is no limit.
        token_num_uses: Option<i64>,
    }
}

impl Property for TokenNumUses {
    const MISSING: &'static str = "missing token_num_uses";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        shown_of(role, &["token_num_uses"], out);
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        let named = self.token_num_uses.is_some();
        let new = TokenFields { token_num_uses: self.token_num_uses, ..TokenFields::default() };
        role.tokens.change(new, OldNames::default())?;
        Ok(named)
    }
    fn reset(role: &mut Role) {
        role.tokens.num_uses = 0;
    }
}

parameters! {
    struct Period {
        /// The tokens are periodic: each renewal gives this long.
        token_period: Option<Seconds>,
        /// The old name of token_period.
        period: Option<Seconds>,
    }
}

impl Property for Period {
    const MISSING: &'static str = "missing period";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        shown_of(role, &["token_period", "period"], out);
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        let named = self.token_period.is_some() || self.period.is_some();
        let new = TokenFields { token_period: self.token_period, ..TokenFields::default() };
        role.tokens.change(new, OldNames { period: self.period, ..OldNames::default() })?;
        Ok(named)
    }
    fn reset(role: &mut Role) {
        role.tokens.period_secs = 0;
    }
}

parameters! {
    struct BindSecretId {
        /// Whether a login needs a secret id.
        bind_secret_id: Option<bool>,
    }
}

impl Property for BindSecretId {
    const MISSING: &'static str = "missing bind_secret_id";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        out.insert("bind_secret_id".into(), role.bind_secret_id.into());
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        role.bind_secret_id = self.bind_secret_id.unwrap_or(role.bind_secret_id);
        Ok(self.bind_secret_id.is_some())
    }
    fn reset(role: &mut Role) {
        role.bind_secret_id = true;
    }
}

parameters! {
    struct Blocks {
        /// Networks from which secret ids may be used.
        secret_id_bound_cidrs: Option<Vec<String>>,
    }
}

impl Property for Blocks {
    const MISSING: &'static str = "";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        out.insert("secret_id_bound_cidrs".into(), or_null(role.secret_id_bound_cidrs.as_ref()));
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        let Some(list) = self.secret_id_bound_cidrs else { return Ok(false) };
        role.secret_id_bound_cidrs = Some(blocks(&list)?);
        Ok(true)
    }
    fn reset(role: &mut Role) {
        role.secret_id_bound_cidrs = None;
    }
}

parameters! {
    struct OldBlocks {
        /// The old name of secret_id_bound_cidrs.
        bound_cidr_list: Option<Vec<String>>,
    }
}

impl Property for OldBlocks {
    const MISSING: &'static str = "";
    const WARNING: &'static str = "The \"bound_cidr_list\" field is deprecated and will be removed. Please use \
                                   \"secret_id_bound_cidrs\" instead.";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        out.insert("bound_cidr_list".into(), or_null(role.secret_id_bound_cidrs.as_ref()));
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        Blocks { secret_id_bound_cidrs: self.bound_cidr_list }.change(role)
    }
    fn reset(role: &mut Role) {
        Blocks::reset(role);
    }
}

parameters! {
    struct TokenBlocks {
        /// Networks that the tokens are bound to.
        token_bound_cidrs: Option<Vec<String>>,
    }
}

impl Property for TokenBlocks {
    const MISSING: &'static str = "";
    fn show(role: &Role, out: &mut Map<String, Value>) {
        let list = Some(&role.tokens.bound_cidrs).filter(|l| !l.is_empty());
        out.insert("token_bound_cidrs".into(), or_null(list));
    }
    fn change(self, role: &mut Role) -> Result<bool> {
        let named = self.token_bound_cidrs.is_some();
        let new = TokenFields { token_bound_cidrs: self.token_bound_cidrs, ..TokenFields::default() };
        role.tokens.change(new, OldNames::default())?;
        Ok(named)
    }
    fn reset(role: &mut Role) {
        role.tokens.bound_cidrs.clear();
    }
}
