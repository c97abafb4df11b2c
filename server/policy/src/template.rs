//! Templates in the paths of rules: `{{identity.entity.id}}` and its kin.

use crate::PolicyErrorKind;

/// What a template asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TemplateKey {
    /// `identity.entity.…`: of the caller's entity.
    Entity(EntityField),
    /// `identity.entity.aliases.ACCESSOR.…`: of the entity's alias in a mount.
    Alias {
        /// The accessor of the mount.
        accessor: String,
        /// What of it.
        field: AliasField,
    },
    /// `identity.groups.…`: of a group that the caller is a member of.
    Group {
        /// Which group.
        group: GroupSelector,
        /// What of it.
        field: GroupField,
    },
}

/// A field of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EntityField {
    /// `id`
    Id,
    /// `name`
    Name,
    /// `metadata.KEY`
    Metadata(String),
}

/// A field of an alias.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AliasField {
    /// `id`
    Id,
    /// `name`
    Name,
    /// `metadata.KEY`
    Metadata(String),
    /// `custom_metadata.KEY`
    CustomMetadata(String),
}

/// How a group is named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupSelector {
    /// `ids.ID`
    Id(String),
    /// `names.NAME`
    Name(String),
}

/// A field of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupField {
    /// `id`
    Id,
    /// `name`
    Name,
    /// `metadata.KEY`
    Metadata(String),
}

/// Gives the values of a caller's entity, aliases and groups.
pub trait TemplateValues {
    /// The value, or `None` if the caller has none: the rule then does not
    /// apply. A group of which the caller is no member has no values.
    fn value(&self, key: &TemplateKey) -> Option<String>;
}

impl TemplateKey {
    /// Reads what stands between the braces. `None`: there is no such value,
    /// for anyone.
    fn parse(text: &str) -> Option<TemplateKey> {
        let rest = text.trim().strip_prefix("identity.")?;
        if let Some(rest) = rest.strip_prefix("entity.aliases.") {
            let (accessor, field) = rest.split_once('.')?;
            let field = match field.split_once('.') {
                None if field == "id" => AliasField::Id,
                None if field == "name" => AliasField::Name,
                Some(("metadata", key)) => AliasField::Metadata(key.to_owned()),
                Some(("custom_metadata", key)) => AliasField::CustomMetadata(key.to_owned()),
                _ => return None,
            };
            let accessor = accessor.to_owned();
            return Some(TemplateKey::Alias { accessor, field });
        }
        if let Some(field) = rest.strip_prefix("entity.") {
            return Some(TemplateKey::Entity(match field.split_once('.') {
                None if field == "id" => EntityField::Id,
                None if field == "name" => EntityField::Name,
                Some(("metadata", key)) => EntityField::Metadata(key.to_owned()),
                _ => return None,
            }));
        }
        let (kind, rest) = rest.strip_prefix("groups.")?.split_once('.')?;
        let (name, field) = rest.split_once('.')?;
        let group = match kind {
            "ids" => GroupSelector::Id(name.to_owned()),
            "names" => GroupSelector::Name(name.to_owned()),
            _ => return None,
        };
        let field = match field.split_once('.') {
            None if field == "id" => GroupField::Id,
            None if field == "name" => GroupField::Name,
            Some(("metadata", key)) => GroupField::Metadata(key.to_owned()),
            _ => return None,
        };
        Some(TemplateKey::Group { group, field })
    }
}

/// A path with templates, cut into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { written: String, key: Option<TemplateKey> },
}

/// Which characters a value may bring into a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowances {
    pub slashes: bool,
    pub wildcards: bool,
}

/// A value that may not stand in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForbiddenValue {
    pub template: String,
}

impl PathTemplate {
    /// Reads a path; `None` if it has no template.
    pub(crate) fn parse(path: &str) -> Result<Option<PathTemplate>, PolicyErrorKind> {
        let mut parts = Vec::new();
        let mut rest = path;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (key, after) = behind.split_once("}}").ok_or(PolicyErrorKind::Template)?;
            if before.contains("}}") || key.contains("{{") {
                return Err(PolicyErrorKind::Template);
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Value { written: key.trim().to_owned(), key: TemplateKey::parse(key) });
            rest = after;
        }
        if rest.contains("}}") {
            return Err(PolicyErrorKind::Template);
        }
        if parts.is_empty() {
            return Ok(None);
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Some(PathTemplate { parts }))
    }

    /// The first value that there is for nobody.
    pub(crate) fn unknown(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Value { written, key: None } => Some(written.as_str()),
            _ => None,
        })
    }

    /// Fills in the values; `None` if one is missing. An empty value is one.
    pub(crate) fn fill(
        &self,
        values: Option<&dyn TemplateValues>,
        allowed: Allowances,
    ) -> Result<Option<String>, ForbiddenValue> {
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Value { written, key } => {
                    let value = key.as_ref().and_then(|key| values?.value(key));
                    let Some(value) = value else {
                        return Ok(None);
                    };
                    let slash = value.contains('/') && !allowed.slashes;
                    let wildcard = value.contains(['*', '+']) && !allowed.wildcards;
                    if slash || wildcard {
                        let template = written.clone();
                        return Err(ForbiddenValue { template });
                    }
                    path.push_str(&value);
                }
            }
        }
        Ok(Some(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_template_is_understood() {
        let key = |text| TemplateKey::parse(text);
        let metadata = EntityField::Metadata("a.b".to_owned());
        assert_eq!(key(" identity.entity.id "), Some(TemplateKey::Entity(EntityField::Id)));
        assert_eq!(key("identity.entity.metadata.a.b"), Some(TemplateKey::Entity(metadata)));
        assert_eq!(
            key("identity.entity.aliases.auth_jwt_1.custom_metadata.k"),
            Some(TemplateKey::Alias {
                accessor: "auth_jwt_1".to_owned(),
                field: AliasField::CustomMetadata("k".to_owned()),
            })
        );
        assert_eq!(
            key("identity.groups.names.crew.metadata.area"),
            Some(TemplateKey::Group {
                group: GroupSelector::Name("crew".to_owned()),
                field: GroupField::Metadata("area".to_owned()),
            })
        );
        for text in ["", "nothing", "identity.entity.nothing", "identity.groups.ids.x", "time.now", "identity"] {
            assert_eq!(key(text), None, "{text}");
        }
    }

    #[test]
    fn unbalanced_braces_are_refused() {
        for path in ["a/{{x", "a/}}", "a/{{x}}/{{", "}}a{{x}}", "{{a{{b}}"] {
            assert_eq!(PathTemplate::parse(path), Err(PolicyErrorKind::Template), "{path}");
        }
        assert_eq!(PathTemplate::parse("a/{x}"), Ok(None));
        assert!(PathTemplate::parse("a/{{}}").unwrap().is_some());
    }
}
