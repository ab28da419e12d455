//! The playbooks as they are shipped: every reason is given, nothing is left over, and every
//! step renders for every kind of cluster.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ipnet::Ipv4Net;
use kdiy::artifacts::catalogue::Catalogue;
use kdiy::bundle::{Bundle, Renderer};
use kdiy::config::{
    ClusterConfig, Cni, ControlPlane, EtcdTopology, KubeProxyMode, LoadBalancerMode,
};
use kdiy::engine::plan::{self, ClusterState};
use kdiy::pki::{Keeping, Pki};
use kdiy::playbook::context::TemplateContext;
use kdiy::playbook::load::Playbooks;
use kdiy::playbook::template::Templates;
use kdiy::reports::explain::{self, Explainer};
use kdiy::reports::guide::{self, Guide, Sources};
use kdiy::session::{RenderedCluster, ResolvedCluster};
use kdiy::topology::facts::Facts;

/// Templates of the engine itself, which no step names.
const NOT_OF_A_STEP: [&str; 1] = ["unit.service.hbs"];
/// Every file in there is a topic of its own.
const TOPICS: &str = "explain/";
/// Steps that there is nothing to learn from breaking.
const WITHOUT_EXERCISE: [&str; 11] = [
    "etcd-binaries",
    "control-plane-binaries",
    "runtime-binaries",
    "node-binaries",
    "images",
    "pod-network-flannel",
    "flannel",
    "own-pod-network",
    "nodes-ready",
    "network",
    "addons",
];

fn playbooks() -> Playbooks {
    Playbooks::load(None).unwrap()
}

fn kinds() -> Vec<(&'static str, ClusterConfig)> {
    let default = ClusterConfig::default;
    let mut external = default();
    external.etcd.topology = EtcdTopology::External;
    external.load_balancer.mode = LoadBalancerMode::Dedicated;
    external.load_balancer.machines = 2;
    external.network.cni = Cni::Flannel;
    let single = ClusterConfig { masters: 1, workers: 0, slow_machines: 10, ..default() }.settled();
    let mut foreign = default();
    foreign.load_balancer.mode = LoadBalancerMode::External;
    foreign.load_balancer.address = Some("10.0.0.5:6443".into());
    foreign.network.cni = Cni::None;
    foreign.network.kube_proxy = KubeProxyMode::Iptables;
    vec![
        ("stacked", default()),
        ("external etcd, dedicated balancers, flannel", external),
        ("one slow master", single),
        ("foreign balancer, foreign network", foreign),
    ]
}

/// An ordinary virtual machine, and a container on an old kernel.
fn grounds() -> [Facts; 2] {
    let container = Facts {
        cgroup_version: 1,
        oom_score_restricted: true,
        modules_loadable: false,
        ..Facts::assumed("arm64")
    };
    [Facts::assumed("amd64"), container]
}

fn template_context(
    playbooks: &Playbooks,
    config: ClusterConfig,
    directory: &Path,
) -> (TemplateContext, Pki) {
    let on_paper = common::on_paper(playbooks, config);
    let (topology, config) = (&on_paper.topology, &on_paper.config);
    let pki = Pki::open(&directory.join("pki"), topology, config, Keeping::Existing).unwrap();
    (on_paper, pki)
}

/// Calls `see` with every bundle of every kind of cluster.
fn each_bundle(mut see: impl FnMut(&str, &Bundle)) {
    let (playbooks, templates) = (playbooks(), Templates::new());
    for (kind, config) in kinds() {
        let directory = tempfile::tempdir().unwrap();
        let (template_context, pki) = template_context(&playbooks, config, directory.path());
        let renderer = Renderer {
            playbooks: &playbooks,
            templates: &templates,
            template_context: &template_context,
            secrets: &pki,
        };
        for facts in grounds() {
            for (book, step) in
                playbooks.steps().filter(|(_, step)| template_context.all_hold(&step.when))
            {
                for machine in template_context.topology.group(step.on) {
                    let context = template_context.for_machine(machine, &facts).unwrap();
                    let bundle = renderer
                        .bundle(book, step, machine, &context)
                        .unwrap_or_else(|failure| panic!("{kind}: {failure}"));
                    see(kind, &bundle);
                }
            }
        }
    }
}

#[test]
fn everything_that_is_done_has_its_reason() {
    let playbooks = playbooks();
    let mut missing = Vec::new();
    for (book, step) in playbooks.steps() {
        let place = format!("{}/{}", book.directory, step.name);
        let mut need = |what: &str, why: &str| {
            if why.trim().is_empty() {
                missing.push(format!("{place}: {what}"));
            }
        };
        need("the step", &step.why);
        need("its title", &step.title);
        for command in &step.commands {
            need(&command.run, &command.why);
        }
        for undo in &step.undo {
            need(&undo.run, &undo.why);
        }
        for file in &step.files {
            need(&file.path, file.why.as_deref().unwrap_or_default());
        }
        if let Some(gate) = &step.gate {
            need(gate.name.as_str(), &gate.why);
        }
        for unit in &step.units {
            for flag in &unit.flags {
                need(&flag.flag, &flag.why);
            }
        }
    }
    assert!(missing.is_empty(), "without a reason:\n{}", missing.join("\n"));
}

/// A flag that names a file of ours is a reason to restart when that file changes, whichever step
/// writes it.
#[test]
fn a_unit_restarts_with_every_file_that_its_flags_name() {
    each_guide(|kind, rendered, _| {
        let renderer = rendered.renderer();
        for machine in &rendered.template_context.topology.machines {
            let bundles = renderer.bundles(machine, &Facts::assumed("amd64")).unwrap();
            let files: Vec<_> = bundles.values().flat_map(|bundle| &bundle.files).collect();
            for unit in bundles.values().flat_map(|bundle| &bundle.units) {
                let path = format!("/etc/systemd/system/{}", unit.name);
                let Some(text) = files.iter().find(|file| file.path == path) else { continue };
                let text = String::from_utf8_lossy(&text.bytes);
                let named: BTreeSet<&str> =
                    text.lines().flat_map(|line| line.split(['=', ' ', '"', '\\'])).collect();
                for file in files.iter().filter(|file| named.contains(file.path.as_str())) {
                    // What systemd runs before it is no part of the process.
                    let is_script = file.path.starts_with("/usr/local/sbin/");
                    assert!(
                        is_script || file.restarts.contains(&unit.name),
                        "{kind}: {} does not restart with {}",
                        unit.name,
                        file.path
                    );
                }
            }
        }
    });
}

/// On a machine of a running cluster a program waits for the step of the unit that uses it.
#[test]
fn every_program_of_a_unit_is_put_in_place_by_the_unit_s_step() {
    each_guide(|kind, rendered, _| {
        let renderer = rendered.renderer();
        for machine in &rendered.template_context.topology.machines {
            let bundles = renderer.bundles(machine, &Facts::assumed("amd64")).unwrap();
            for bundle in bundles.values() {
                for unit in &bundle.units {
                    for path in
                        unit.depends_on.iter().filter(|it| it.starts_with("/usr/local/bin/"))
                    {
                        let program = bundle.programs.iter().find(|program| program.path == *path);
                        let units = program.map(|program| program.units.as_slice());
                        assert_eq!(units, Some(&[unit.name.clone()][..]), "{kind}: {path}");
                    }
                }
            }
        }
    });
}

#[test]
fn no_flag_is_given_twice() {
    for (_, step) in playbooks().steps() {
        for unit in &step.units {
            let mut seen = BTreeSet::new();
            for flag in unit.flags.iter().filter(|flag| flag.when.is_empty()) {
                assert!(seen.insert(&flag.flag), "{}: {} twice", unit.name, flag.flag);
            }
        }
    }
}

#[test]
fn no_template_is_left_over() {
    let playbooks = playbooks();
    let mut used = BTreeSet::new();
    for (book, step) in playbooks.steps() {
        let files = step.files.iter().filter_map(|file| file.template.as_ref());
        let units = step.units.iter().filter_map(|unit| unit.template.as_ref());
        for name in files.chain(units).chain(&step.manifests) {
            used.insert(format!("{}/{name}", book.directory));
        }
        let gate = step.gate.iter().map(|gate| format!("gate-{}", gate.name));
        let action = step
            .action
            .iter()
            .map(|action| serde_json::to_value(action).unwrap().as_str().unwrap().to_owned());
        used.extend(gate.chain(action).map(|name| format!("guide/{name}.md.hbs")));
    }
    used.extend(guide::CHAPTERS.iter().map(|name| format!("guide/{name}.md.hbs")));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks");
    let mut left = Vec::new();
    templates_below(&root, &mut |path| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let topic = name.starts_with(TOPICS);
        if !topic && !used.contains(&name) && !NOT_OF_A_STEP.contains(&name.as_str()) {
            left.push(name);
        }
    });
    assert!(left.is_empty(), "no step names {left:?}");
}

fn templates_below(at: &Path, see: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            templates_below(&path, see);
        } else if path.extension().is_some_and(|extension| extension == "hbs") {
            see(&path);
        }
    }
}

#[test]
fn every_step_installs_what_the_catalogue_has() {
    let playbooks = playbooks();
    let catalogue = Catalogue::load(&playbooks).unwrap();
    let versions = catalogue.versions(&ClusterConfig::default()).unwrap();
    for (_, step) in playbooks.steps() {
        for name in &step.artifacts {
            catalogue.item(name, &versions, "amd64").unwrap();
        }
        for name in &step.images {
            assert!(versions.images.contains_key(name), "{}: no image {name}", step.name);
        }
    }
}

#[test]
fn every_step_renders_to_well_formed_files_for_every_kind_of_cluster() {
    each_bundle(|kind, bundle| {
        for file in &bundle.files {
            let text = String::from_utf8(file.bytes.clone()).unwrap();
            let place = format!("{kind}: {} on {}: {}", bundle.step, bundle.machine, file.path);
            assert!(!text.contains("{{"), "{place} is not rendered whole");
            if file.path.ends_with(".yaml") {
                serde_saphyr::from_str::<serde_json::Value>(&text)
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
            }
            if file.path.ends_with(".json") || file.path.ends_with(".conflist") {
                serde_json::from_str::<serde_json::Value>(&text)
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
            }
        }
    });
}

#[test]
fn every_script_is_valid_shell_for_every_kind_of_cluster() {
    let mut seen = BTreeSet::new();
    each_bundle(|kind, bundle| {
        for file in &bundle.files {
            let text = String::from_utf8(file.bytes.clone()).unwrap();
            let is_script = text.starts_with("#!/bin/sh")
                || file.path.starts_with(kdiy::bundle::RECONCILE_DIRECTORY);
            if is_script && seen.insert(text.clone()) {
                let mut sh = std::process::Command::new("sh");
                let parsed = sh.args(["-n", "-c", &text]).output().unwrap();
                assert!(parsed.status.success(), "{kind}: {}: {parsed:?}\n{text}", file.path);
            }
        }
    });
    assert!(seen.len() > 10);
}

/// The text of the packet filter, by machine.
fn packet_filters(config: &ClusterConfig, network: &str) -> Vec<(String, String)> {
    let design = ResolvedCluster::of(config.clone(), None).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let site = network.parse::<Ipv4Net>().unwrap().into();
    let rendered = design.draw(&directory.path().join("pki"), &site, Keeping::Existing).unwrap();
    let renderer = rendered.renderer();
    let machines = rendered.template_context.topology.machines.iter();
    machines
        .map(|machine| {
            let bundles = renderer.bundles(machine, &Facts::assumed("amd64")).unwrap();
            let mut files = bundles["kernel-state"].files.iter();
            let file = files.find(|file| file.path.ends_with("/packet-filter.nft")).unwrap();
            (machine.name.clone(), String::from_utf8(file.bytes.clone()).unwrap())
        })
        .collect()
}

/// Both have the router id 10, from their virtual addresses.
#[test]
fn adverts_are_taken_from_the_other_load_balancers_of_the_same_cluster_only() {
    let config = ClusterConfig::default();
    for network in ["192.168.56.0/24", "192.168.57.0/24"] {
        let own = network.trim_end_matches("0/24");
        for (machine, text) in packet_filters(&config, network) {
            let from: Vec<&str> = text
                .lines()
                .filter(|line| line.contains("ip ttl 255 accept"))
                .filter_map(|line| line.split("ip saddr ").nth(1)?.split(' ').next())
                .collect();
            let is_master = machine.contains("-master-");
            assert_eq!(text.contains("chain vrrp_in"), is_master, "{machine}: {text}");
            assert_eq!(from.len(), if is_master { 2 } else { 0 }, "{machine}: {text}");
            assert!(from.iter().all(|address| address.starts_with(own)), "{machine}: {text}");
        }
    }
}

#[test]
fn every_manifest_renders_for_every_kind_of_cluster() {
    let (playbooks, templates) = (playbooks(), Templates::new());
    for (kind, config) in kinds() {
        let directory = tempfile::tempdir().unwrap();
        let (template_context, _pki) = template_context(&playbooks, config, directory.path());
        let context = template_context.for_cluster().unwrap();
        for (book, step) in
            playbooks.steps().filter(|(_, step)| template_context.all_hold(&step.when))
        {
            for name in &step.manifests {
                let text = playbooks.template(book, name).unwrap();
                let rendered = templates.render(name, text, &context).unwrap();
                let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&rendered)
                    .unwrap_or_else(|error| panic!("{kind}: {name}: {error}"));
                for document in documents.iter().filter(|document| !document.is_null()) {
                    assert!(document["metadata"]["name"].is_string(), "{kind}: {name}: {document}");
                }
            }
        }
    }
}

/// A path with a slip in it would mean a unit that never restarts with its certificate.
#[test]
fn units_restart_with_files_that_somebody_writes() {
    let playbooks = playbooks();
    let catalogue = Catalogue::load(&playbooks).unwrap();
    let versions = catalogue.versions(&ClusterConfig::default()).unwrap();
    let mut written: BTreeSet<String> = BTreeSet::new();
    for (_, step) in playbooks.steps() {
        written.extend(step.files.iter().map(|file| file.path.clone()));
        for name in &step.artifacts {
            let item = catalogue.item(name, &versions, "amd64").unwrap();
            written.extend(item.install.into_iter().map(|(_, to, _)| to));
        }
    }
    for (_, step) in playbooks.steps() {
        for unit in &step.units {
            for path in unit.restarts_with.iter().chain(&unit.exec) {
                assert!(written.contains(path), "{}: nobody writes {path}", unit.name);
            }
        }
    }
}

/// Guaranteed pods have -997 (kubernetes.io, "Node-pressure Eviction").
#[test]
fn out_of_memory_pods_end_before_what_they_depend_on() {
    let mut lowest: BTreeMap<String, i32> = BTreeMap::new();
    each_bundle(|_, bundle| {
        for file in &bundle.files {
            let Some(unit) = file.path.strip_prefix("/etc/systemd/system/") else { continue };
            let unit = unit.split('.').next().unwrap_or_default().to_owned();
            let text = String::from_utf8_lossy(&file.bytes);
            for line in text.lines().filter_map(|line| line.strip_prefix("OOMScoreAdjust=")) {
                let score: i32 = line.parse().unwrap();
                let entry = lowest.entry(unit.clone()).or_insert(score);
                *entry = score.min(*entry);
            }
        }
    });
    let order = |unit: &str| lowest.get(unit).copied();
    for unit in ["etcd", "containerd", "kubelet", "kube-proxy", "flanneld", "keepalived"] {
        assert_eq!(order(unit), Some(-999), "{unit}");
    }
    assert_eq!((order("kube-apiserver"), order("haproxy")), (Some(-998), Some(-998)));
    for unit in ["kube-controller-manager", "kube-scheduler"] {
        assert_eq!(order(unit), Some(-997), "{unit}");
    }
}

/// Those that cannot bear it are known by name, with their reasons in the playbook.
#[test]
fn every_service_is_in_a_sandbox() {
    let bare = [
        "containerd.service",
        "kubelet.service",
        // These run scripts of ours that set what the machine itself has, and serve nobody.
        "kdiy-address.service",
        "kdiy-reconcile.service",
    ];
    each_bundle(|kind, bundle| {
        for unit in bundle.units.iter().filter(|unit| !bare.contains(&unit.name.as_str())) {
            let own = format!("/etc/systemd/system/{}", unit.name);
            let is_sandboxed = bundle
                .files
                .iter()
                .filter(|file| file.path == own || file.path.starts_with(&format!("{own}.d/")))
                .any(|file| String::from_utf8_lossy(&file.bytes).contains("NoNewPrivileges=yes"));
            assert!(is_sandboxed, "{kind}: {}", unit.name);
        }
    });
}

#[test]
fn private_keys_are_for_their_owners_only() {
    each_bundle(|kind, bundle| {
        for file in bundle.files.iter().filter(|file| file.secret) {
            assert_eq!(file.mode, "0600", "{kind}: {}: {}", bundle.step, file.path);
        }
    });
}

#[test]
fn pods_of_flannel_leave_room_for_vxlan() {
    let mut seen = BTreeSet::new();
    each_bundle(|kind, bundle| {
        for file in bundle.files.iter().filter(|file| file.path.ends_with(".conflist")) {
            let value: serde_json::Value = serde_json::from_slice(&file.bytes).unwrap();
            seen.insert((kind.contains("flannel"), value["plugins"][0]["mtu"].as_u64()));
        }
    });
    assert_eq!(seen, [(false, None), (true, Some(1450))].into());
}

#[test]
fn masters_take_pods_where_nothing_else_would() {
    let mut masters = 0;
    each_bundle(|kind, bundle| {
        let kubelet = bundle.files.iter().find(|file| file.path.ends_with("/kubelet.yaml"));
        let Some(file) = kubelet.filter(|_| bundle.machine.contains("-master-")) else { return };
        let text = String::from_utf8(file.bytes.clone()).unwrap();
        assert_eq!(
            !text.contains("registerWithTaints"),
            kind == "one slow master",
            "{kind}: {text}"
        );
        masters += 1;
    });
    assert!(masters > 0);
    let said = ControlPlane { schedulable: Some(false), ..ControlPlane::default() };
    let config = ClusterConfig { workers: 0, control_plane: said, ..ClusterConfig::default() };
    assert!(!config.masters_take_pods(), "what is said counts");
}

#[test]
fn steps_have_something_to_break() {
    let playbooks = playbooks();
    let mut missing = Vec::new();
    for (_, step) in playbooks.steps() {
        if step.exercise.is_none() && !WITHOUT_EXERCISE.contains(&step.name.as_str()) {
            missing.push(&step.name);
        }
    }
    assert!(missing.is_empty(), "no exercise: {missing:?}");
}

/// Calls `see` with every kind of cluster on paper, and its guide.
fn each_guide(mut see: impl FnMut(&str, &RenderedCluster, &Guide<'_>)) {
    for (kind, config) in kinds() {
        let directory = tempfile::tempdir().unwrap();
        let site = "192.168.56.0/24".parse::<Ipv4Net>().unwrap().into();
        let design = ResolvedCluster::of(config, None).unwrap();
        let rendered =
            design.draw(&directory.path().join("pki"), &site, Keeping::Existing).unwrap();
        let guide = Guide::new(&Sources::of(&rendered, "amd64"), &Default::default())
            .unwrap_or_else(|failure| panic!("{kind}: {failure}"));
        see(kind, &rendered, &guide);
    }
}

/// Blocks of commands, with where they are typed.
fn blocks(markdown: &str) -> Vec<(&str, &str)> {
    let fenced = markdown.split("\n```sh on=").skip(1);
    fenced.map(|rest| rest.split("\n```\n").next().unwrap().split_once('\n').unwrap()).collect()
}

#[test]
fn everything_can_be_explained_for_every_kind_of_cluster() {
    each_guide(|kind, rendered, guide| {
        let explainer = Explainer {
            playbooks: &rendered.playbooks,
            templates: &rendered.templates,
            template_context: &rendered.template_context,
            guide,
            facts: Facts::assumed("amd64"),
        };
        let entries = explain::entries(&rendered.playbooks);
        assert!(entries.iter().filter(|entry| entry.topic).count() >= 6, "topics are missing");
        for entry in entries {
            let text = explainer
                .explain(&entry.name)
                .unwrap_or_else(|failure| panic!("{kind}: {}: {failure}", entry.name));
            assert!(text.starts_with("# "), "{kind}: {}", entry.name);
            assert!(!text.contains("{{") && !text.contains("KDIYSTANDIN"), "{kind}: {text}");
        }
    });
}

#[test]
fn the_guide_of_every_kind_of_cluster_is_whole_and_valid_shell() {
    each_guide(|kind, rendered, guide| {
        let plan =
            plan::build(&rendered.playbooks, &rendered.template_context, &ClusterState::default())
                .unwrap();
        let steps = plan.steps(&rendered.playbooks);
        let text = guide
            .markdown(&steps, &Default::default(), true)
            .unwrap_or_else(|failure| panic!("{kind}: {failure}"));
        assert!(!text.contains("KDIYSTANDIN"), "{kind}: a stand-in is left");
        for secret in rendered.pki.secrets() {
            assert!(!text.contains(&secret), "{kind}: a secret is told");
        }
        for step in steps {
            assert!(text.contains(&format!(". {step}: ")), "{kind}: no {step}");
        }
        let machines = &rendered.template_context.topology;
        for (place, commands) in blocks(&text) {
            for name in place.split(',').filter(|name| *name != "here") {
                assert!(machines.machine(name).is_some(), "{kind}: there is no {name}");
            }
            let parsed =
                std::process::Command::new("sh").args(["-n", "-c", commands]).output().unwrap();
            assert!(parsed.status.success(), "{kind}: on {place}: {parsed:?}\n{commands}");
        }
    });
}

/// The same files by hand as by `up`: whatever a machine gets is in its blocks.
#[test]
fn the_guide_writes_every_file() {
    each_guide(|kind, rendered, guide| {
        let plan =
            plan::build(&rendered.playbooks, &rendered.template_context, &ClusterState::default())
                .unwrap();
        let steps = plan.steps(&rendered.playbooks);
        let text = guide.markdown(&steps, &Default::default(), true).unwrap();
        let facts = Facts::assumed("amd64");
        for machine in &rendered.template_context.topology.machines {
            let own: Vec<&str> = blocks(&text)
                .into_iter()
                .filter(|(place, _)| place.split(',').any(|name| name == machine.name))
                .map(|(_, commands)| commands)
                .collect();
            let own = own.join("\n");
            for bundle in rendered.renderer().bundles(machine, &facts).unwrap().values() {
                for file in &bundle.files {
                    assert!(own.contains(&file.path), "{kind}: {}: no {}", machine.name, file.path);
                    let content = String::from_utf8_lossy(&file.bytes);
                    let delivered = file.secret || content.starts_with("-----BEGIN");
                    assert!(delivered || own.contains(&*content), "{kind}: {}", file.path);
                }
            }
        }
    });
}

/// Every text that may become a script on a machine, by its path.
fn texts(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(texts(&path));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            found.push((path.display().to_string(), text));
        }
    }
    found
}

/// sudo's `secure_path` may lack /usr/local/bin, as on Rocky and Alma Linux, and a machine may
/// have a proxy in its environment, which knows nothing of the cluster's addresses.
#[test]
fn kdiys_own_programs_have_their_path_and_probes_take_no_proxy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commands = |line: &str, program: &str| {
        let starts = line.match_indices(program).filter(|(at, _)| {
            let before = line[..*at].trim_end_matches(' ').chars().next_back();
            let ends = &line[at + program.len()..];
            // In prose it stands in backticks, or in the middle of a sentence.
            before.is_none_or(|c| "(;|&{!\"".contains(c)) && ends.starts_with(' ')
        });
        starts.count()
    };
    let mut bare = Vec::new();
    for directory in ["playbooks", "src"] {
        for (path, text) in texts(&root.join(directory)) {
            // Typed on the user's own computer, with a release to fetch from the internet.
            let at_home = path.contains("guide/releases") || path.contains("explain/certificates");
            for line in text.lines().filter(|_| !at_home) {
                let own = ["crictl", "ctr", "etcdctl", "etcdutl"];
                let bare_name = own.iter().any(|program| commands(line, program) > 0);
                let by_proxy = line.contains("curl -") && !line.contains("--noproxy '*'");
                if bare_name || by_proxy {
                    bare.push(format!("{path}: {}", line.trim()));
                }
            }
        }
    }
    assert!(bare.is_empty(), "{}", bare.join("\n"));
}
