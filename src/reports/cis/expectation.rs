//! What a value must be.

use std::fmt;

use serde::Deserialize;

/// Lists are separated by commas, as in `--authorization-mode=Node,RBAC`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Expectation {
    Given,
    Absent,
    Is(String),
    /// Another value, or none: what is not given has a default, which then is a good one.
    IsNot(String),
    /// One item of the list.
    Has(String),
    /// No item of the list; there may be no list.
    Lacks(String),
    AtLeast(u64),
    /// Each item of the list is one of these.
    Among(Vec<String>),
}

impl Expectation {
    pub fn holds(&self, value: Option<&str>) -> bool {
        let mut items = value.into_iter().flat_map(|value| value.split(','));
        match self {
            Self::Given => value.is_some_and(|value| !value.is_empty()),
            Self::Absent => value.is_none(),
            Self::Is(wanted) => value == Some(wanted),
            Self::IsNot(unwanted) => value != Some(unwanted),
            Self::Has(wanted) => items.any(|item| item == wanted),
            Self::Lacks(unwanted) => items.all(|item| item != unwanted),
            Self::AtLeast(least) => {
                value.and_then(|value| value.parse::<u64>().ok()).is_some_and(|it| it >= *least)
            }
            Self::Among(known) => {
                value.is_some() && items.all(|item| known.iter().any(|known| known == item))
            }
        }
    }

    /// What is wrong with the value that `name` has, in a sentence.
    pub fn problem(&self, name: &str, value: Option<&str>) -> Option<String> {
        if self.holds(value) {
            return None;
        }
        let saw = match value {
            None => "is not set".to_owned(),
            Some(value) => format!("is `{value}`"),
        };
        Some(format!("{name} {saw}; it must {self}"))
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("be set"),
            Self::Absent => f.write_str("not be set"),
            Self::Is(wanted) => write!(f, "be {wanted}"),
            Self::IsNot(unwanted) => write!(f, "not be {unwanted}"),
            Self::Has(wanted) => write!(f, "contain {wanted}"),
            Self::Lacks(unwanted) => write!(f, "not contain {unwanted}"),
            Self::AtLeast(least) => write!(f, "be at least {least}"),
            Self::Among(known) => write!(f, "be one of {}", known.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_holds_and_fails() {
        let text = |text: &str| text.to_owned();
        // Rule, a value that fits, one that does not.
        let cases = [
            (Expectation::Given, Some("/a"), None),
            (Expectation::Given, Some("/a"), Some("")),
            (Expectation::Absent, None, Some("")),
            (Expectation::Is(text("false")), Some("false"), Some("true")),
            (Expectation::Is(text("false")), Some("false"), None),
            (Expectation::IsNot(text("0")), None, Some("0")),
            (Expectation::Has(text("RBAC")), Some("Node,RBAC"), Some("Node,RBACX")),
            (Expectation::Lacks(text("AlwaysAllow")), None, Some("RBAC,AlwaysAllow")),
            (Expectation::AtLeast(30), Some("30"), Some("29")),
            (Expectation::AtLeast(30), Some("100"), Some("many")),
            (Expectation::Among(vec![text("A"), text("B")]), Some("B,A"), Some("A,C")),
            (Expectation::Among(vec![text("A")]), Some("A"), None),
        ];
        for (must, good, bad) in cases {
            assert_eq!(must.problem("x", good), None, "{must:?} {good:?}");
            assert!(must.problem("x", bad).is_some(), "{must:?} {bad:?}");
        }
    }

    #[test]
    fn a_problem_states_the_observed_and_the_required_value() {
        let problem = Expectation::Is("false".into()).problem("--profiling", Some("true")).unwrap();
        assert_eq!(problem, "--profiling is `true`; it must be false");
        let problem = Expectation::Given.problem("--client-ca-file", None).unwrap();
        assert_eq!(problem, "--client-ca-file is not set; it must be set");
    }
}
