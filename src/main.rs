//! Arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use kdiy::cli::Cli;
use kdiy::commands;
use kdiy::support::failure::Failure;
use kdiy::ui::Ui;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new(cli.output, cli.verbose);
    if let Err(failure) = kdiy::providers::sudo::hide() {
        ui.failure(&failure);
        return ExitCode::from(failure.exit_code());
    }
    run(cli, ui)
}

#[tokio::main]
async fn run(cli: Cli, ui: Ui) -> ExitCode {
    kdiy::support::tls::install_provider();
    kdiy::providers::sudo::ask_with(kdiy::ui::ask_password);
    // What the user gets to see is an error like any other, never a backtrace.
    std::panic::set_hook(Box::new(move |panic| ui.failure(&Failure::bug(panic.to_string()))));
    match commands::run(cli, ui).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            ui.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
