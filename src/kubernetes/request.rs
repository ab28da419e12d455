//! Single requests, and what the API says when it refuses one.

use kube::Client;

use crate::support::failure::chain;

/// GETs a path such as `/readyz?verbose`. `Err` holds why no answer came.
pub async fn raw(client: &Client, path: &str) -> std::result::Result<(u16, String), String> {
    use http_body_util::BodyExt as _;
    let request = http::Request::get(path)
        .body(kube::client::Body::empty())
        .map_err(|error| error.to_string())?;
    let answer = client.send(request).await.map_err(|error| chain(&error))?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(|error| chain(&error))?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

/// What the api said, where the error is its refusal.
pub fn status_of(error: &kube::Error) -> Option<&kube::core::Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}
