//! The one place that decides which cryptography TLS uses.

/// Makes *ring* the process's provider; later calls change nothing.
pub fn install_provider() {
    // Fails only when a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
