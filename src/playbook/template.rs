//! Handlebars, made strict: a variable that does not exist is an error, and nothing is escaped
//! for HTML.

use handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, Output, RenderContext, RenderError,
    RenderErrorReason, handlebars_helper, no_escape,
};
use serde_json::Value;

use crate::config::Span;
use crate::support::failure::{Failure, Result};

pub struct Templates(Handlebars<'static>);

handlebars_helper!(join: |list: Json, separator: str| joined(list, separator));
// The types of numbers are so small that nothing that is made of them can be too large.
handlebars_helper!(mebibytes: |count: u32| (u64::from(count) * 1024 * 1024).to_string());
handlebars_helper!(indent: |width: u8, text: str| indented(width, text));

impl Templates {
    pub fn new() -> Self {
        let mut registry = Handlebars::new();
        registry.set_strict_mode(true);
        registry.register_escape_fn(no_escape);
        registry.register_helper("join", Box::new(join));
        registry.register_helper("indent", Box::new(indent));
        registry.register_helper("mebibytes", Box::new(mebibytes));
        registry.register_helper("times", Box::new(Multiplied(|span| span.to_string())));
        registry.register_helper(
            "milliseconds",
            Box::new(Multiplied(|span| span.get().as_millis().to_string())),
        );
        registry.register_helper(
            "seconds",
            Box::new(Multiplied(|span| span.get().as_secs_f64().to_string())),
        );
        registry.register_helper("ruby", Box::new(ruby));
        Self(registry)
    }

    /// `name` is what the user can find: the file, or the field of a playbook.
    pub fn render(&self, name: &str, text: &str, context: &Value) -> Result<String> {
        // Most texts are plain, and handlebars copies the whole context, which grows with the number
        // of machines, for each that it renders.
        if !text.contains("{{") {
            return Ok(text.to_owned());
        }
        self.0.render_template(text, context).map_err(|error| {
            Failure::input(format!("cannot render the template {name}")).because(error)
        })
    }
}

impl Default for Templates {
    fn default() -> Self {
        Self::new()
    }
}

/// `{{ruby value}}`: a string as a Ruby literal, for the Vagrantfile. In single quotes nothing is
/// interpolated, and only the backslash and the quote mean something.
fn ruby(
    helper: &Helper,
    _: &Handlebars,
    _: &Context,
    _: &mut handlebars::RenderContext,
    out: &mut dyn handlebars::Output,
) -> Result<(), RenderError> {
    let value = helper.param(0).map(handlebars::PathAndJson::value);
    let Some(text) = value.and_then(Value::as_str) else {
        return Err(RenderErrorReason::Other("`ruby` takes exactly one string".into()).into());
    };
    if text.chars().any(char::is_control) {
        return Err(
            RenderErrorReason::Other(format!("{text:?} contains a control character")).into()
        );
    }
    let quoted = text.replace('\\', "\\\\").replace('\'', "\\'");
    out.write(&format!("'{quoted}'"))?;
    Ok(())
}

fn joined(list: &Value, separator: &str) -> String {
    let parts: Vec<String> = list
        .as_array()
        .map(|items| {
            items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect()
        })
        .unwrap_or_default();
    parts.join(separator)
}

fn indented(width: u8, text: &str) -> String {
    let pad = " ".repeat(width.into());
    let lines: Vec<String> = text
        .lines()
        .map(|line| if line.is_empty() { String::new() } else { format!("{pad}{line}") })
        .collect();
    lines.join("\n")
}

/// A duration times a whole number, written in a way of its own: `{{times "100ms"
/// settings.slowMachines}}` as a duration, the others as bare numbers.
struct Multiplied(fn(Span) -> String);

impl HelperDef for Multiplied {
    fn call<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        out.write(&(self.0)(multiplied(helper)?))?;
        Ok(())
    }
}

fn multiplied(helper: &Helper<'_>) -> Result<Span, RenderError> {
    let usage = || {
        RenderError::from(RenderErrorReason::Other(format!(
            "`{}` takes a duration such as \"15s\" and a whole number",
            helper.name()
        )))
    };
    let span: Span = helper
        .param(0)
        .and_then(|param| param.value().as_str())
        .and_then(|text| text.parse().ok())
        .ok_or_else(usage)?;
    let factor = helper
        .param(1)
        .and_then(|param| param.value().as_u64())
        .and_then(|factor| u32::try_from(factor).ok())
        .ok_or_else(usage)?;
    Ok(span.times(factor))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(text: &str) -> Result<String> {
        Templates::new().render("test", text, &json!({"list": ["a", "b"], "html": "<&>", "n": 3}))
    }

    #[test]
    fn text_is_not_escaped_and_helpers_work() {
        let text = "{{html}} {{join list \",\"}} {{times \"100ms\" n}} {{seconds \"2s\" n}} [{{indent 2 \"x\\ny\"}}]";
        assert_eq!(render(text).unwrap(), "<&> a,b 300ms 6 [  x\n  y]");
    }

    #[test]
    fn a_missing_variable_names_the_template() {
        let failure = render("{{lisst}}").unwrap_err().to_string();
        assert!(failure.contains("template test") && failure.contains("lisst"), "{failure}");
    }

    #[test]
    fn a_nonsense_duration_is_refused() {
        assert!(render("{{times \"soon\" n}}").is_err());
    }

    #[test]
    fn numbers_that_would_overflow_are_refused() {
        assert_eq!(render("{{mebibytes 8192}}").unwrap(), "8589934592");
        for text in ["{{mebibytes 17592186044416}}", "{{indent 18446744073709551615 html}}"] {
            assert!(render(text).is_err(), "{text}");
        }
        assert!(render("{{milliseconds \"8760h\" 4294967295}}").is_ok());
    }
}
