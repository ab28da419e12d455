//! Why an account ran something else than it was asked to, from what the machine said instead.

/// What is shown of it, in characters; a machine may print anything.
const SHOWN: usize = 300;

/// Signs in what a machine says, in small letters, and what to do about each. `USER` stands for
/// whoever logs in.
const SIGNS: [(&str, &str); 10] = [
    ("must have a tty", "sudo wants a terminal there: with visudo, set Defaults:USER !requiretty"),
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
        "its login shell lets nobody in (nologin): usermod --shell /bin/sh USER, or another user in ssh.user",
    ),
    ("please login as", "its key runs one command only: set ssh.user to the user that it names"),
    ("not in the sudoers file", "add a rule for this user with visudo, or set another ssh.user"),
    ("not allowed to", "add a rule for this user with visudo, or set another ssh.user"),
    ("may not run sudo", "add a rule for this user with visudo, or set another ssh.user"),
    ("sudo: not found", "install sudo there, or log in as root"),
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
    fn accounts_that_cannot_work_are_told_apart() {
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
    fn what_was_said_is_one_line_that_does_nothing_to_a_terminal() {
        assert_eq!(words("\u{1b}[31ma\n\n", "b\r\n"), "[31ma; b");
    }
}
