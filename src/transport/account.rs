//! Explains from its output why an account did not run the command.

/// What is shown of it, in characters; a machine may print anything.
const SHOWN: usize = 300;

/// Signs in what a machine says, in small letters, and what to do about each. `USER` stands for
/// whoever logs in.
const SIGNS: [(&str, &str); 10] = [
    ("must have a tty", "sudo requires a terminal: with visudo, set Defaults:USER !requiretty"),
    (
        "password change required",
        "the user's password has expired: log in once by hand and change it, or chage --maxdays -1 USER",
    ),
    (
        "password has expired",
        "the user's password has expired: log in once by hand and change it, or chage --maxdays -1 USER",
    ),
    ("account has expired", "the account has expired: chage --expiredate -1 USER"),
    (
        "account is currently not available",
        "its login shell refuses logins (nologin): usermod --shell /bin/sh USER, or set another \
        ssh.user",
    ),
    (
        "please login as",
        "this key allows one command only: set ssh.user to the user that the message names",
    ),
    ("not in the sudoers file", "add a rule for this user with visudo, or set another ssh.user"),
    ("not allowed to", "add a rule for this user with visudo, or set another ssh.user"),
    ("may not run sudo", "add a rule for this user with visudo, or set another ssh.user"),
    ("sudo: not found", "install sudo on the machine, or log in as root"),
];

/// What to do where a machine said this instead of running a script.
pub fn advice(said: &str, user: &str) -> Option<String> {
    let said = said.to_lowercase();
    let (_, advice) = SIGNS.iter().find(|(sign, _)| said.contains(sign))?;
    Some(advice.replace("USER", user))
}

/// Both streams of a command as one line, without what could act on a terminal.
pub fn words(stdout: &str, stderr: &str) -> String {
    let lines = stdout.lines().chain(stderr.lines()).map(str::trim);
    let lines: Vec<String> = lines
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ").chars().take(SHOWN).collect()
}

/// Whether sudo would go on, given a password. sudo-rs speaks of authentication.
pub fn wants_password(said: &str) -> bool {
    ["password is required", "read the password", "authentication is required"]
        .iter()
        .any(|sign| said.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_accounts_are_distinguished() {
        // As sshd of OpenSSH 9.2, sudo 1.9.13, nologin of util-linux 2.38 and cloud-init 22.4 say it.
        for (said, part) in [
            ("sudo: sorry, you must have a tty to run sudo", "Defaults:ops !requiretty"),
            (
                "WARNING: Your password has expired.; Password change required but no TTY available.",
                "chage --maxdays -1 ops",
            ),
            ("This account is currently not available.", "nologin"),
            ("Please login as the user \"debian\" rather than the user \"root\".", "set ssh.user"),
            ("ops is not in the sudoers file.", "visudo"),
        ] {
            let advice = advice(said, "ops").unwrap_or_default();
            assert!(advice.contains(part), "{said}: {advice}");
        }
        assert_eq!(advice("welcome", "ops"), None);
    }

    #[test]
    fn the_message_is_one_line_without_control_characters() {
        assert_eq!(words("\u{1b}[31ma\n\n", "b\r\n"), "[31ma; b");
    }
}
