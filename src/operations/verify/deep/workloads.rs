//! Jobs, CronJobs, StatefulSets and disruption budgets.

use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::operations::verify::sandbox::{PORT, Sandbox};
use crate::operations::verify::smoke::deployment_of;
use crate::operations::verify::{Check, CheckResult};
use crate::support::failure::chain;

pub const CHECKS: &[Check] = &[
    Check {
        name: "cron-job",
        title: "a CronJob starts its Job at the full minute",
        run: |bench| cron_job(bench).boxed(),
    },
    Check {
        name: "stateful-set",
        title: "a StatefulSet creates its pods in order and keeps their names",
        run: |bench| stateful_set(bench).boxed(),
    },
    Check {
        name: "job",
        title: "a Job completes; a Job that cannot complete gives up",
        run: |bench| job(bench).boxed(),
    },
    Check {
        name: "disruption-budget",
        title: "a PodDisruptionBudget blocks an eviction only as long as it must",
        run: |bench| disruption_budget(bench).boxed(),
    },
];

fn job_spec(bench: &Sandbox, script: &str) -> Value {
    let mut pod = bench.pod_spec(script);
    pod["restartPolicy"] = json!("Never");
    json!({"template": {"spec": pod}})
}

async fn cron_job(bench: Arc<Sandbox>) -> CheckResult {
    let job = job_spec(&bench, "true");
    let cron = json!({
        "metadata": {"name": "minutely"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job}},
    });
    bench.create::<CronJob>(cron).await?;
    let api = bench.api::<Job>();
    let done = bench
        .until("a Job of the CronJob to succeed", || async {
            let jobs = api.list(&ListParams::default()).await.map_err(|error| chain(&error))?;
            let done = jobs
                .iter()
                .find(|job| job.status.as_ref().is_some_and(|status| status.succeeded == Some(1)));
            done.cloned().ok_or_else(|| format!("{} Jobs", jobs.items.len()))
        })
        .await?;
    let owner = done.owner_references().first().map(|owner| owner.name.clone());
    bench.prove_same("owner of the Job", "minutely".to_owned(), owner.unwrap_or_default());
    Ok(())
}

async fn stateful_set(bench: Arc<Sandbox>) -> CheckResult {
    let service = json!({
        "metadata": {"name": "ordered"},
        "spec": {"clusterIP": "None", "selector": {"app": "ordered"}, "ports": [{"port": PORT}]},
    });
    bench.create::<Service>(service).await?;
    let mut set = deployment_of("ordered", 2, bench.server_spec());
    set["spec"]["serviceName"] = json!("ordered");
    bench.create::<StatefulSet>(set).await?;
    bench.create::<Pod>(bench.pod("client", "sleep 3600")).await?;
    bench.until_pods("ordered", 2).await?;
    bench.until_ready("client").await?;
    let (first, second) =
        (bench.until_ready("ordered-0").await?, bench.until_ready("ordered-1").await?);
    let ready = first.status.as_ref().and_then(|status| {
        let mut conditions = status.conditions.as_ref()?.iter();
        conditions.find(|it| it.type_ == "Ready")?.last_transition_time.as_ref()
    });
    let made = second.metadata.creation_timestamp.as_ref();
    let text = |time: Option<&Time>| time.map_or("never".into(), |time| time.0.to_string());
    bench.prove(
        "the second pod",
        "created after the first was ready",
        format!("first ready {}, second created {}", text(ready), text(made)),
        ready.is_some() && made >= ready,
    );
    let address = first.status.as_ref().and_then(|status| status.pod_ip.clone());
    let address = address.unwrap_or_default();
    let domain = &bench.context.config.network.dns_domain;
    let name = format!("ordered-0.ordered.{}.svc.{domain}", bench.namespace);
    let found = bench
        .until("the DNS name of the first pod to resolve", || async {
            let script = format!("nslookup {name} | tail -n +3");
            let text = bench.exec("client", &script).await.map_err(|it| it.to_string())?;
            if text.split_whitespace().any(|word| word == address) {
                Ok(address.clone())
            } else {
                Err(text)
            }
        })
        .await?;
    bench.prove_same("address of the first pod's DNS name", &address, &found);

    bench.delete::<Pod>("ordered-0").await?;
    let again = bench
        .until_object("ordered-0", "a new first pod", |pod: &Pod| {
            (pod.uid() != first.uid()).then(|| pod.clone())
        })
        .await?;
    bench.prove(
        "a pod that was deleted",
        "is created again with the same name",
        again.name_any(),
        true,
    );
    Ok(())
}

async fn job(bench: Arc<Sandbox>) -> CheckResult {
    let mut good = job_spec(&bench, "true");
    good["completions"] = json!(3);
    good["parallelism"] = json!(2);
    bench.create::<Job>(json!({"metadata": {"name": "good"}, "spec": good})).await?;
    let mut bad = job_spec(&bench, "exit 1");
    bad["backoffLimit"] = json!(0);
    bench.create::<Job>(json!({"metadata": {"name": "bad"}, "spec": bad})).await?;
    for (name, condition) in [("good", "Complete"), ("bad", "Failed")] {
        let what = format!("the Job {name} to be {condition}");
        let (succeeded, failed) = bench
            .until_object(name, &what, |job: &Job| {
                let status = job.status.as_ref()?;
                let mut conditions = status.conditions.iter().flatten();
                conditions.find(|it| it.type_ == condition && it.status == "True")?;
                Some((status.succeeded.unwrap_or_default(), status.failed.unwrap_or_default()))
            })
            .await?;
        let expected = if name == "good" { (3, 0) } else { (0, 1) };
        bench.prove(
            &format!("pods of the Job {name}"),
            format!("{} succeeded, {} failed", expected.0, expected.1),
            format!("{succeeded} succeeded, {failed} failed"),
            (succeeded, failed) == expected,
        );
    }
    Ok(())
}

async fn disruption_budget(bench: Arc<Sandbox>) -> CheckResult {
    bench.create::<Deployment>(deployment_of("web", 2, bench.server_spec())).await?;
    let budget = |least: u32| {
        json!({
            "metadata": {"name": "web"},
            "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}},
        })
    };
    bench.create::<PodDisruptionBudget>(budget(2)).await?;
    let pods = bench.until_pods("web", 2).await?;
    allowed(&bench, 0).await?;
    let pod = pods[0].name_any();
    let evicted = bench.api::<Pod>().evict(&pod, &EvictParams::default()).await;
    let saw = match &evicted {
        Ok(_) => "allowed".to_owned(),
        Err(kube::Error::Api(status)) => status.code.to_string(),
        Err(error) => chain(error),
    };
    bench.prove_same("an eviction that violates the budget", "429", saw.as_str());
    let lower = Patch::Merge(budget(1));
    bench.patch::<PodDisruptionBudget>("web", &PatchParams::default(), &lower).await?;
    allowed(&bench, 1).await?;
    let evicted = bench.api::<Pod>().evict(&pod, &EvictParams::default()).await;
    let saw = evicted.map_or_else(|error| chain(&error), |_| "allowed".to_owned());
    bench.prove_same("an eviction that respects it", "allowed", saw.as_str());
    Ok(())
}

/// Waits until the controller has counted the pods.
async fn allowed(bench: &Sandbox, count: i32) -> CheckResult {
    let what = format!("the budget to allow {count} disruptions");
    bench
        .until_object("web", &what, |budget: &PodDisruptionBudget| {
            let status = budget.status.as_ref()?;
            let current = status.observed_generation == budget.metadata.generation;
            let counted = status.current_healthy == Some(2);
            (current && counted && status.disruptions_allowed == Some(count)).then_some(())
        })
        .await?;
    Ok(())
}
