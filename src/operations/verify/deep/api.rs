//! API machinery: server-side apply, garbage collection, paging.

use std::sync::Arc;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::kubernetes::request::status_of;
use crate::operations::verify::sandbox::Sandbox;
use crate::operations::verify::{Check, CheckResult};
use crate::support::failure::chain;

pub const CHECKS: &[Check] = &[
    Check {
        name: "server-side-apply",
        title: "two owners of a field conflict in server-side apply, and force wins",
        run: |bench| server_side_apply(bench).boxed(),
    },
    Check {
        name: "garbage-collection",
        title: "garbage collection deletes what an object owns",
        run: |bench| garbage_collection(bench).boxed(),
    },
    Check {
        name: "paging",
        title: "a list in pages is complete and has no duplicates",
        run: |bench| paging(bench).boxed(),
    },
];

async fn server_side_apply(bench: Arc<Sandbox>) -> CheckResult {
    let api = bench.api::<ConfigMap>();
    let object = |value: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "shared"}, "data": {"key": value},
        }))
    };
    let (first, second) = (PatchParams::apply("first"), PatchParams::apply("second"));
    bench.patch::<ConfigMap>("shared", &first, &object("one")).await?;
    let saw = match api.patch("shared", &second, &object("two")).await {
        Ok(_) => "taken".to_owned(),
        Err(error) => {
            status_of(&error).map_or_else(|| chain(&error), |status| status.code.to_string())
        }
    };
    bench.prove_same("another owner's value for the same field", "409", saw.as_str());
    let forced: ConfigMap = bench.patch("shared", &second.force(), &object("two")).await?;
    let value = forced.data.unwrap_or_default().remove("key").unwrap_or_default();
    bench.prove_same("value after force", "two", value.as_str());
    Ok(())
}

async fn garbage_collection(bench: Arc<Sandbox>) -> CheckResult {
    let owner: ConfigMap = bench.create(json!({"metadata": {"name": "owner"}})).await?;
    let owned = |name: &str, uid: String| {
        json!({"metadata": {"name": name, "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid,
        }]}})
    };
    bench.create::<ConfigMap>(owned("owned", owner.uid().unwrap_or_default())).await?;
    bench.create::<ConfigMap>(json!({"metadata": {"name": "free"}})).await?;
    bench.delete::<ConfigMap>("owner").await?;
    let api = bench.api::<ConfigMap>();
    bench
        .until("the owned object to be deleted", || async {
            match api.get_opt("owned").await {
                Ok(None) => Ok(()),
                Ok(Some(_)) => Err("it still exists".to_owned()),
                Err(error) => Err(chain(&error)),
            }
        })
        .await?;
    bench.prove_same("the owned object", "gone", "gone");
    let free = bench.ask("read what is free", || api.get_opt("free")).await?;
    let saw = if free.is_some() { "there" } else { "gone" };
    bench.prove_same("the object without an owner", "there", saw);
    Ok(())
}

async fn paging(bench: Arc<Sandbox>) -> CheckResult {
    const OBJECTS: usize = 7;
    let made: Vec<String> = (0..OBJECTS).map(|number| format!("item-{number}")).collect();
    for name in &made {
        let object = json!({"metadata": {"name": name, "labels": {"page": "1"}}});
        bench.create::<ConfigMap>(object).await?;
    }
    let api = bench.api::<ConfigMap>();
    let mut params = ListParams::default().labels("page=1").limit(3);
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let page = bench.ask("list a page", || api.list(&params)).await?;
        pages += 1;
        names.extend(page.items.iter().map(kube::ResourceExt::name_any));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    bench.prove_same("objects in pages of three", made.join(" "), names.join(" "));
    bench.prove_same("pages", 3, pages);
    Ok(())
}
