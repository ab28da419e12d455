{
  description = "A highly available Kubernetes cluster, the hard way and in the open";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forEachSystem = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      manifest = (lib.importTOML ./Cargo.toml).package;
    in
    {
      packages = forEachSystem (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = manifest.name;
          inherit (manifest) version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package"
            "kdiy"
          ];
          # Tests look at the repository and at programs of the computer; CI runs them.
          doCheck = false;

          nativeBuildInputs = [
            pkgs.installShellFiles
            pkgs.makeWrapper
          ];
          preBuild = ''
            export KDIY_COMMIT=${self.rev or ""}
            export SOURCE_DATE_EPOCH=${toString self.lastModified}
          '';
          postInstall =
            lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
              $out/bin/kdiy man man
              installManPage man/*.1
              installShellCompletion --cmd kdiy \
                --bash <($out/bin/kdiy completions bash) \
                --zsh <($out/bin/kdiy completions zsh) \
                --fish <($out/bin/kdiy completions fish)
            ''
            + ''
              wrapProgram $out/bin/kdiy --suffix PATH : ${lib.makeBinPath [ pkgs.openssh ]}
            '';

          meta = {
            inherit (manifest) description;
            homepage = "https://github.com/kdiy/kdiy";
            license = lib.licenses.asl20;
            mainProgram = "kdiy";
          };
        };
      });

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.clippy
            pkgs.go
            pkgs.mdbook
            pkgs.rustc
            pkgs.rustfmt
          ];
        };
      });
    };
}
