//! The digest of the key in a file, computed in the same way here and by the shell of a machine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::bundle::sha256;

/// What stands before a key in the configuration of the api-server's encryption.
const SECRET: &str = "secret:";

/// Identifies the key in a file of a machine, as [`shell`] does there: that of a certificate, of a
/// private key, or of an encryption configuration. `None` for what holds no key.
pub fn of_text(text: &str) -> Option<String> {
    let secret = || {
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(SECRET));
        let secrets: String = lines.map(str::trim).collect();
        (!secrets.is_empty()).then(|| sha256(secrets.as_bytes()))
    };
    of_certificate(text).or_else(|| of_key(text)).or_else(secret)
}

/// Prints `key`, what [`of_text`] would be, and the path, for each of these files that holds a key
/// and is not as it should be. `sums` are quoted lines of `sha256sum`: a file with the digest that
/// is wanted holds the key that is wanted, and openssl takes a tenth of a second a file on a busy
/// master.
pub fn shell(sums: &str) -> String {
    format!(
        r#"printf '%s\n' {sums} | sha256sum --check --quiet 2>/dev/null | sed -n 's/: FAILED.*//p' | while read -r f; do
  [ -f "$f" ] || continue
  k=$({{ openssl x509 -noout -pubkey -in "$f" || openssl pkey -pubout -in "$f" || sed -n 's/^ *{SECRET} *//p' "$f"; }} 2>/dev/null | grep -v -- '-----' | tr -d '\n')
  [ -z "$k" ] || printf 'key\t%s\t%s\n' "$(printf %s "$k" | sha256sum | cut -d ' ' -f 1)" "$f"
done
"#
    )
}

pub fn of_certificate(text: &str) -> Option<String> {
    let block = pem::parse(text).ok().filter(|block| block.tag() == "CERTIFICATE")?;
    let (_, certificate) = X509Certificate::from_der(block.contents()).ok()?;
    Some(of_public_key(certificate.public_key().raw))
}

pub fn of_key(text: &str) -> Option<String> {
    let key = KeyPair::from_pem(text).ok()?;
    Some(of_public_key(&key.subject_public_key_info()))
}

/// `SubjectPublicKeyInfo` in DER.
pub fn of_public_key(der: &[u8]) -> String {
    sha256(BASE64.encode(der).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bundle::script::quote;
    use crate::bundle::{observe, sha256};
    use crate::pki::{encryption_config, issue};

    /// What the shell of a machine says of a file is what is said of its text here.
    #[test]
    fn machines_identify_keys_in_the_same_way() {
        let directory = tempfile::tempdir().unwrap();
        let pair = issue::authority("test").unwrap();
        let texts = [
            ("ca.crt", pair.certificate.clone()),
            ("ca.key", pair.key),
            ("edited.crt", format!("{}# edited by hand\n", pair.certificate)),
            ("encryption.yaml", encryption_config(&BASE64.encode([7; 32]))),
            ("other", "nothing of the kind\n".to_owned()),
        ];
        let mut paths = Vec::new();
        for (name, text) in &texts {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            paths.push(path.to_string_lossy().into_owned());
        }
        let observed = |sums: &[String]| {
            let mut sh = std::process::Command::new("sh");
            let output = sh.args(["-c", &shell(&sums.join(" "))]).output().unwrap();
            observe::parse(&String::from_utf8(output.stdout).unwrap())
        };
        let sum = |digest: &str, path: &str| quote(&format!("{digest}  {path}"));
        let as_wanted: Vec<String> = texts
            .iter()
            .zip(&paths)
            .map(|((_, text), path)| sum(&sha256(text.as_bytes()), path))
            .collect();
        assert!(observed(&as_wanted).keys.is_empty());
        assert!(observed(&[]).keys.is_empty());
        let other = "0".repeat(64);
        let differing: Vec<String> = paths.iter().map(|path| sum(&other, path)).collect();
        let observed = observed(&differing);
        for ((name, text), path) in texts.iter().zip(&paths) {
            assert_eq!(observed.keys.get(path), of_text(text).as_ref(), "{name}");
        }
        assert_eq!(of_text(&texts[0].1), of_text(&texts[1].1));
        assert_eq!(of_text(&texts[0].1), of_text(&texts[2].1));
        assert_eq!(of_text(&texts[4].1), None);
    }
}
