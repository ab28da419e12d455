//! What is built, how, and under which names it is published.

use super::image::Recipe;

#[derive(Debug)]
pub struct Upstream {
    /// Directory of its Go module below `mirror/`.
    pub name: &'static str,
    pub version: &'static str,
    pub cgo: bool,
    pub tags: &'static str,
    pub ldflags: &'static str,
    pub packed: &'static [Packed],
}

#[derive(Debug)]
pub enum Packed {
    File {
        from: &'static str,
        to: &'static str,
    },
    /// A gzipped tar of (binary, name in the archive).
    Archive {
        to: &'static str,
        members: &'static [(&'static str, &'static str)],
    },
    Image(Recipe),
}

#[cfg(target_arch = "x86_64")]
macro_rules! arch {
    () => {
        "amd64"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! arch {
    () => {
        "arm64"
    };
}

macro_rules! kubernetes {
    ($name:literal) => {
        Packed::File {
            from: $name,
            to: concat!("dl.k8s.io/release/v1.36.4/bin/linux/", arch!(), "/", $name),
        }
    };
}

pub const UPSTREAMS: &[Upstream] = &[
    Upstream {
        name: "etcd",
        version: "3.6.14",
        cgo: false,
        tags: "",
        ldflags: "-s -w",
        packed: &[Packed::Archive {
            to: concat!(
                "github.com/etcd-io/etcd/releases/download/v3.6.14/etcd-v3.6.14-linux-",
                arch!(),
                ".tar.gz"
            ),
            members: &[
                ("server", concat!("etcd-v3.6.14-linux-", arch!(), "/etcd")),
                ("etcdctl", concat!("etcd-v3.6.14-linux-", arch!(), "/etcdctl")),
                ("etcdutl", concat!("etcd-v3.6.14-linux-", arch!(), "/etcdutl")),
            ],
        }],
    },
    Upstream {
        name: "kubernetes",
        version: "1.36.4",
        cgo: false,
        tags: "",
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.4 \
            -X k8s.io/component-base/version.gitMajor=1 \
            -X k8s.io/component-base/version.gitMinor=36 \
            -X k8s.io/component-base/version.gitTreeState=clean \
            -X k8s.io/component-base/version.gitCommit=unknown \
            -X k8s.io/component-base/version.buildDate=2026-08-21T00:00:00Z",
        packed: &[
            kubernetes!("kube-apiserver"),
            kubernetes!("kube-controller-manager"),
            kubernetes!("kube-scheduler"),
            kubernetes!("kubelet"),
            kubernetes!("kubectl"),
            kubernetes!("kube-proxy"),
        ],
    },
    Upstream {
        name: "containerd",
        version: "2.3.4",
        cgo: false,
        tags: "",
        ldflags: "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.3.4 \
            -X github.com/containerd/containerd/v2/version.Package=github.com/containerd/containerd/v2",
        packed: &[Packed::Archive {
            to: concat!(
                "github.com/containerd/containerd/releases/download/v2.3.4/containerd-2.3.4-linux-",
                arch!(),
                ".tar.gz"
            ),
            members: &[
                ("containerd", "bin/containerd"),
                ("containerd-shim-runc-v2", "bin/containerd-shim-runc-v2"),
                ("ctr", "bin/ctr"),
            ],
        }],
    },
    Upstream {
        name: "runc",
        version: "1.4.3",
        cgo: true,
        tags: "seccomp netgo osusergo",
        ldflags: "-s -w -extldflags -static -X main.version=1.4.3",
        packed: &[Packed::File {
            from: "runc",
            to: concat!("github.com/opencontainers/runc/releases/download/v1.4.3/runc.", arch!()),
        }],
    },
    Upstream {
        name: "cni-plugins",
        version: "1.9.1",
        cgo: false,
        tags: "",
        ldflags: "-s -w \
            -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v1.9.1",
        packed: &[Packed::Archive {
            to: concat!(
                "github.com/containernetworking/plugins/releases/download/v1.9.1/cni-plugins-linux-",
                arch!(),
                "-v1.9.1.tgz"
            ),
            members: &[
                ("bridge", "./bridge"),
                ("host-local", "./host-local"),
                ("loopback", "./loopback"),
                ("portmap", "./portmap"),
            ],
        }],
    },
    Upstream {
        name: "crictl",
        version: "1.36.0",
        cgo: false,
        tags: "",
        ldflags: "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0",
        packed: &[Packed::Archive {
            to: concat!(
                "github.com/kubernetes-sigs/cri-tools/releases/download/v1.36.0/crictl-v1.36.0-linux-",
                arch!(),
                ".tar.gz"
            ),
            members: &[("crictl", "crictl")],
        }],
    },
    Upstream {
        name: "coredns",
        version: "1.14.2",
        cgo: false,
        tags: "",
        ldflags: "-s -w",
        packed: &[Packed::Image(Recipe {
            file: "coredns.tar",
            reference: "registry.k8s.io/coredns/coredns:v1.14.2",
            files: &[("coredns", "coredns")],
            entrypoint: &["/coredns"],
            command: &[],
            applets: false,
        })],
    },
    Upstream {
        name: "local-path",
        version: "0.0.30",
        cgo: false,
        tags: "",
        ldflags: "-s -w",
        packed: &[Packed::Image(Recipe {
            file: "local-path-provisioner.tar",
            reference: "docker.io/rancher/local-path-provisioner:v0.0.30",
            files: &[("local-path-provisioner", "usr/bin/local-path-provisioner")],
            entrypoint: &["/usr/bin/local-path-provisioner"],
            command: &[],
            applets: false,
        })],
    },
    Upstream {
        name: "pause",
        version: "3.10.2",
        cgo: false,
        tags: "",
        ldflags: "-s -w",
        packed: &[Packed::Image(Recipe {
            file: "pause.tar",
            reference: "registry.k8s.io/pause:3.10.2",
            files: &[("pause", "pause")],
            entrypoint: &["/pause"],
            command: &[],
            applets: false,
        })],
    },
    // Debian's busybox-static, which `prepare` installs.
    Upstream {
        name: "busybox",
        version: "1.37",
        cgo: false,
        tags: "",
        ldflags: "",
        packed: &[Packed::Image(Recipe {
            file: "busybox.tar",
            reference: "docker.io/library/busybox:1.37",
            files: &[("busybox", "bin/busybox")],
            entrypoint: &[],
            command: &["sh"],
            applets: true,
        })],
    },
];
