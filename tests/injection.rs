//! Nothing that a cluster file says can add to what is written on a machine or in the api: each
//! string is refused, or stays inside the place that it was meant for.
//!
//! A file that some text broke out of would have a line more, or another shape as YAML or JSON,
//! than the same file with a plain word in the text's place.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use kdiy::artifacts::catalogue::Catalogue;
use kdiy::bundle::Renderer;
use kdiy::config::{ClusterConfig, Cni, Host, HostRole, HostSsh, LoadBalancerMode, ProviderChoice};
use kdiy::pki::{Keeping, Pki};
use kdiy::playbook::context::TemplateContext;
use kdiy::playbook::load::Playbooks;
use kdiy::playbook::template::Templates;
use kdiy::topology::facts::Facts;
use kdiy::topology::{Topology, check};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;

/// A string of the cluster file: its name, how to set it, and a harmless value.
struct Field {
    name: &'static str,
    set: fn(&mut ClusterConfig, String),
    plain: &'static str,
}

const FIELDS: &[Field] = &[
    Field { name: "name", set: |c, text| c.name = text, plain: "plain" },
    Field { name: "kubernetes", set: |c, text| c.kubernetes = text, plain: "1.36.4" },
    Field {
        name: "versions.etcd",
        set: |c, text| {
            c.versions.insert("etcd".into(), text);
        },
        plain: "3.6.14",
    },
    Field {
        name: "versions.pause",
        set: |c, text| {
            c.versions.insert("pause".into(), text);
        },
        plain: "3.10",
    },
    Field {
        name: "loadBalancer.address",
        set: |c, text| {
            c.load_balancer.mode = LoadBalancerMode::External;
            c.load_balancer.address = Some(text);
        },
        plain: "balancer.example:6443",
    },
    Field {
        name: "network.dnsDomain",
        set: |c, text| c.network.dns_domain = text,
        plain: "plain.local",
    },
    Field { name: "machines.box", set: |c, text| c.machines.r#box = Some(text), plain: "a/b" },
    Field { name: "machines.image", set: |c, text| c.machines.image = Some(text), plain: "a:b" },
    Field {
        name: "hosts.name",
        set: |c, text| existing(c, |host| host.name = Some(text)),
        plain: "plain",
    },
    Field {
        name: "hosts.ssh.host",
        set: |c, text| existing(c, |host| host.ssh.host = Some(text)),
        plain: "plain",
    },
    Field {
        name: "hosts.ssh.user",
        set: |c, text| existing(c, |host| host.ssh.user = Some(text)),
        plain: "plain",
    },
    Field {
        name: "hosts.ssh.jump",
        set: |c, text| existing(c, |host| host.ssh.jump = Some(text)),
        plain: "plain@bastion:22",
    },
];

fn existing(config: &mut ClusterConfig, change: impl FnOnce(&mut Host)) {
    let host = |role, last: u8| Host {
        role,
        address: Ipv4Addr::new(10, 1, 2, last).into(),
        name: None,
        ssh: HostSsh::default(),
    };
    config.provider = ProviderChoice::Existing;
    config.hosts = vec![host(HostRole::Master, 1), host(HostRole::Worker, 2)];
    change(&mut config.hosts[0]);
}

fn with(field: &Field, text: &str) -> ClusterConfig {
    let mut config = ClusterConfig { masters: 1, workers: 1, ..ClusterConfig::default() };
    // Its files hold more of the cluster file than the bridge's.
    config.network.cni = Cni::Flannel;
    (field.set)(&mut config, text.to_owned());
    config
}

/// Lines of the text, and its keys with their types where it is YAML or JSON.
type Shape = (usize, Option<Vec<String>>);

fn shape(path: &str, text: &str) -> Shape {
    let structured =
        [".yaml", ".json", ".conflist", ".hbs"].iter().any(|ending| path.ends_with(ending));
    let keys = structured.then(|| {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .unwrap_or_else(|error| panic!("{path} is not well formed: {error}\n{text}"));
        let mut keys = Vec::new();
        documents.iter().for_each(|document| collect("", document, &mut keys));
        keys
    });
    (text.lines().count(), keys)
}

fn collect(at: &str, value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                collect(&format!("{at}/{key}"), value, keys);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                collect(&format!("{at}/{number}"), item, keys);
            }
        }
        Value::Null => keys.push(format!("{at} null")),
        Value::Bool(_) => keys.push(format!("{at} bool")),
        Value::Number(_) => keys.push(format!("{at} number")),
        Value::String(_) => keys.push(format!("{at} string")),
    }
}

/// The shape of everything that is written for a cluster, by machine's number and path; `None`
/// when the file is refused.
fn shapes(config: &ClusterConfig) -> Option<BTreeMap<String, Shape>> {
    check::validate(config).ok()?;
    let playbooks = Playbooks::load(None).unwrap();
    let templates = Templates::new();
    // A version that is well formed and of which no digest is known is refused here.
    let catalogue = Catalogue::load(&playbooks).unwrap();
    let versions = catalogue.versions(config).ok()?;
    let topology = Topology::build(config, "192.168.56.0/24".parse().unwrap()).ok()?;
    let nowhere = tempfile::tempdir().unwrap();
    let pki = Pki::open(nowhere.path(), &topology, config, Keeping::Existing).unwrap();
    let template_context = TemplateContext {
        id: "0".repeat(32),
        topology,
        versions: versions.by_name,
        images: versions.images,
        mirrored_images: vec!["pause".into()],
        config: config.clone(),
    };
    let renderer = Renderer {
        playbooks: &playbooks,
        templates: &templates,
        template_context: &template_context,
        secrets: &pki,
    };
    let mut shapes = BTreeMap::new();
    let facts = Facts::assumed("amd64");
    for (book, step) in playbooks.steps().filter(|(_, step)| template_context.all_hold(&step.when))
    {
        for (number, machine) in template_context.topology.machines.iter().enumerate() {
            if !template_context.topology.is_in(machine, step.on) {
                continue;
            }
            let context = template_context.for_machine(machine, &facts).unwrap();
            let bundle = renderer.bundle(book, step, machine, &context).unwrap();
            for file in &bundle.files {
                let text = String::from_utf8(file.bytes.clone()).unwrap();
                // A certificate's length follows the names in it; its text is base64.
                if !file.path.ends_with(".crt") {
                    shapes.insert(format!("{number} {}", file.path), shape(&file.path, &text));
                }
            }
            let commands: String = bundle.commands.iter().map(|command| &*command.run).collect();
            shapes.insert(format!("{number} {} commands", step.name), shape("", &commands));
        }
        let context = template_context.for_cluster().unwrap();
        for name in &step.manifests {
            let text = playbooks.template(book, name).unwrap();
            let rendered = templates.render(name, text, &context).unwrap();
            shapes.insert(name.clone(), shape(name, &rendered));
        }
    }
    Some(shapes)
}

/// What has broken out of templates elsewhere, and what YAML takes for something else than text.
const HOSTILE: &[&str] = &[
    "",
    "a\nb: c",
    "a\n  evil: true",
    "\"}, {\"evil\": \"",
    "' || reboot; '",
    "$(reboot)",
    "`reboot`",
    "a b",
    "{{bootstrapTokens.0.secret}}",
    "a: b",
    "a #b",
    "&a",
    "*a",
    "!!binary a",
    "- a",
    "-oProxyCommand=reboot",
    "a\r\nb",
    "a\u{2028}b",
    "a\u{85}b",
    "..",
    "../../etc/passwd",
    "null",
    "true",
    "no",
    "0x10",
    "1e3",
    "12",
    "1.2.3.4",
    "12:6443",
    "~",
];

/// Anything at all, and what is close to what is accepted, so that much of it is.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => "(?s).{0,20}",
        3 => "[a-z0-9]{1,8}([.:/@-][a-z0-9]{1,8}){0,2}",
        1 => "[0-9]{1,2}\\.[0-9]{1,2}\\.[0-9]{1,2}",
    ]
}

/// What `text` does to other places than its own, if it is taken at all.
fn damage(field: &Field, wanted: &BTreeMap<String, Shape>, text: &str) -> Result<(), String> {
    let Some(seen) = shapes(&with(field, text)) else { return Ok(()) };
    let hurt = wanted.iter().find(|(place, shape)| seen.get(*place) != Some(*shape));
    match hurt {
        Some((place, _)) => Err(format!("{}: {text:?} changes {place}", field.name)),
        None => Ok(()),
    }
}

#[test]
fn plain_values_are_taken_so_that_there_is_something_to_compare_with() {
    for field in FIELDS {
        assert!(shapes(&with(field, field.plain)).is_some(), "{}", field.name);
    }
}

#[test]
fn a_string_is_refused_or_stays_in_its_place() {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    for field in FIELDS {
        let wanted = shapes(&with(field, field.plain)).unwrap();
        for text in HOSTILE {
            damage(field, &wanted, text).unwrap();
        }
        let result =
            runner.run(&text(), |text| damage(field, &wanted, &text).map_err(TestCaseError::fail));
        result.unwrap_or_else(|error| panic!("{}: {error}", field.name));
    }
}
