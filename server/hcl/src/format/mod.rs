//! Putting a document into its usual form, as `policy fmt` does: two blanks
//! for each level, attributes of a group aligned at `=`, one empty line
//! between groups, comments kept.

mod print;
mod tree;

use crate::{Error, ErrorKind, Position};

/// Puts a document in HCL into its usual form. The result means the same,
/// holds every comment, and stays as it is when it is put into form again.
///
/// # Errors
/// As [`parse`](crate::parse); a document in JSON is refused.
pub fn format(source: &str) -> Result<String, Error> {
    let document = crate::parse(source)?;
    if document.syntax == crate::Syntax::Json {
        return Err(Error::new(Position::START, ErrorKind::JsonNotFormatted));
    }
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    Ok(print::print(&tree::read(source)?))
}

#[cfg(test)]
mod tests {
    use super::format;

    #[track_caller]
    fn becomes(source: &str, expected: &str) {
        let formatted = format(source).unwrap();
        assert_eq!(formatted, expected);
        assert_eq!(format(&formatted).unwrap(), expected);
    }

    #[test]
    fn blocks_are_spread_and_separated() {
        becomes(
            "path \"a\" { policy = \"read\" } path \"b\" {}\npath c {\n}",
            "path \"a\" {\n  policy = \"read\"\n}\n\npath \"b\" {}\n\npath c {}\n",
        );
        becomes("name=\"x\"\npath \"a\" {}", "name = \"x\"\n\npath \"a\" {}\n");
    }

    #[test]
    fn neighbours_are_aligned_and_groups_stay_apart() {
        becomes(
            "path \"a\" {\n capabilities = [\"read\"] # c\n policy = \"read\" # dd\n\n\n comment = \"x\"\n  min_wrapping_ttl = 1\n}",
            "path \"a\" {\n  capabilities = [\"read\"] # c\n  policy       = \"read\"   # dd\n\n  comment          = \"x\"\n  min_wrapping_ttl = 1\n}\n",
        );
        becomes(
            "a {\n policy = \"read\"\n comment = \"x\" # c\n}",
            "a {\n  policy  = \"read\"\n  comment = \"x\"    # c\n}\n",
        );
        becomes("a = 1, b = 2", "a = 1\n\nb = 2\n");
    }

    #[test]
    fn lists_stay_on_their_line_or_have_a_line_for_each_element() {
        becomes("a = [ \"b\",\"c\", ]", "a = [\"b\", \"c\"]\n");
        becomes("a = [\"b\",\n\"c\" ]", "a = [\n  \"b\",\n  \"c\",\n]\n");
        becomes("a = [\n]", "a = []\n");
        becomes(
            "a = [\n\"b\", # one\n \"cc\",# two\n\n # three\n \"d\" ]",
            "a = [\n  \"b\",  # one\n  \"cc\", # two\n\n  # three\n  \"d\",\n]\n",
        );
        becomes("a = [{b = 1}, [\"x\"], {}]", "a = [\n  {\n    b = 1\n  },\n  [\"x\"],\n  {},\n]\n");
    }

    #[test]
    fn comments_stay_where_they_belong() {
        becomes("# head\n\n# lead\npath \"a\" { }\n# tail\n", "# head\n\n# lead\npath \"a\" {}\n\n# tail\n");
        becomes(
            "a {\n# lead\nb = 1\n# lead2\nc = 2\ndd = 3\n\n# tail\n} # end\ne {}",
            "a {\n  # lead\n  b = 1\n\n  # lead2\n  c  = 2\n  dd = 3\n\n  # tail\n} # end\n\ne {}\n",
        );
        becomes("a {\n# only\n}", "a {\n  # only\n}\n");
        becomes("a = [ # one\n]", "a = [\n  # one\n]\n");
    }

    #[test]
    fn heredocs_are_not_touched() {
        becomes(
            "a {\n b = <<EOF\nx\n y\nEOF\n c = [\"z\", <<-E\n  l\n  E\n, \"m\"]\n}",
            "a {\n  b = <<EOF\nx\n y\nEOF\n\n  c = [\n    \"z\",\n    <<-E\n  l\n  E\n    ,\n    \"m\",\n  ]\n}\n",
        );
    }
}
