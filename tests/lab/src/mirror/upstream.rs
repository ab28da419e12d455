//! What is built, how, and under which names it is published.

use super::image::Recipe;

#[derive(Debug, Clone)]
pub struct Upstream {
    pub name: &'static str,
    pub version: &'static str,
    pub source: Source,
    pub packed: &'static [Packed],
}

/// Where the binaries come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The Go module `mirror/<name>`.
    Go {
        cgo: bool,
        tags: &'static str,
        ldflags: &'static str,
        /// `tool`: what go.mod names as tools; `.`: the module itself.
        package: &'static str,
    },
    DebianBusybox,
}

impl Upstream {
    /// The directory of its Go module below `mirror/`.
    pub fn module(&self) -> &'static str {
        self.name.strip_suffix("-older").unwrap_or(self.name)
    }
}

#[derive(Debug)]
pub enum Packed {
    File {
        from: &'static str,
        to: &'static str,
        /// With a digest beside it, as the origin has one.
        published: bool,
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
        kubernetes!($name, "1.36.4")
    };
    ($name:literal, $version:literal) => {
        Packed::File {
            from: $name,
            to: concat!("dl.k8s.io/release/v", $version, "/bin/linux/", arch!(), "/", $name),
            published: true,
        }
    };
}

/// What upgrades begin from: the same source as 1.36.4, which calls itself 1.36.3. With everything
/// compiled already, that is a minute of linking.
pub const OLDER: &[Upstream] = &[Upstream {
    name: "kubernetes-older",
    version: "1.36.3",
    source: Source::Go {
        cgo: false,
        tags: "",
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
        -X k8s.io/component-base/version.gitMajor=1 \
        -X k8s.io/component-base/version.gitMinor=36 \
        -X k8s.io/component-base/version.gitTreeState=clean \
        -X k8s.io/component-base/version.gitCommit=unknown \
        -X k8s.io/component-base/version.buildDate=2026-08-21T00:00:00Z",
        package: "tool",
    },
    packed: &[
        kubernetes!("kube-apiserver", "1.36.3"),
        kubernetes!("kube-controller-manager", "1.36.3"),
        kubernetes!("kube-scheduler", "1.36.3"),
        kubernetes!("kubelet", "1.36.3"),
        kubernetes!("kubectl", "1.36.3"),
        kubernetes!("kube-proxy", "1.36.3"),
    ],
}];

pub const UPSTREAMS: &[Upstream] = &[
    Upstream {
        name: "etcd",
        version: "3.6.14",
        source: Source::Go { cgo: false, tags: "", ldflags: "-s -w", package: "tool" },
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
        source: Source::Go {
            cgo: false,
            tags: "",
            ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.4 \
            -X k8s.io/component-base/version.gitMajor=1 \
            -X k8s.io/component-base/version.gitMinor=36 \
            -X k8s.io/component-base/version.gitTreeState=clean \
            -X k8s.io/component-base/version.gitCommit=unknown \
            -X k8s.io/component-base/version.buildDate=2026-08-21T00:00:00Z",
            package: "tool",
        },
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
        version: "2.3.6",
        source: Source::Go {
            cgo: false,
            tags: "",
            ldflags: "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.3.6 \
            -X github.com/containerd/containerd/v2/version.Package=github.com/containerd/containerd/v2",
            package: "tool",
        },
        packed: &[Packed::Archive {
            to: concat!(
                "github.com/containerd/containerd/releases/download/v2.3.6/containerd-2.3.6-linux-",
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
        source: Source::Go {
            cgo: true,
            tags: "seccomp,netgo,osusergo",
            ldflags: "-s -w -extldflags -static -X main.version=1.4.3",
            package: "tool",
        },
        packed: &[Packed::File {
            from: "runc",
            to: concat!("github.com/opencontainers/runc/releases/download/v1.4.3/runc.", arch!()),
            published: false,
        }],
    },
    Upstream {
        name: "cni-plugins",
        version: "1.9.1",
        source: Source::Go {
            cgo: false,
            tags: "",
            ldflags: "-s -w \
            -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v1.9.1",
            package: "tool",
        },
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
        source: Source::Go {
            cgo: false,
            tags: "",
            ldflags: "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0",
            package: "tool",
        },
        packed: &[Packed::Archive {
            to: concat!(
                "github.com/kubernetes-sigs/cri-tools/releases/download/v1.36.0/crictl-v1.36.0-linux-",
                arch!(),
                ".tar.gz"
            ),
            members: &[("crictl", "crictl")],
        }],
    },
    // With cgo, which its udp backend needs on amd64; a newer tencentcloud module than flannel's
    // own go.mod asks for, because that one is not to be had.
    Upstream {
        name: "flannel",
        version: "0.28.4",
        source: Source::Go {
            cgo: true,
            tags: "netgo,osusergo",
            ldflags: "-s -w -extldflags -static \
                -X github.com/flannel-io/flannel/pkg/version.Version=v0.28.4",
            package: "tool",
        },
        packed: &[Packed::File {
            from: "flannel",
            to: concat!(
                "github.com/flannel-io/flannel/releases/download/v0.28.4/flanneld-",
                arch!()
            ),
            published: true,
        }],
    },
    Upstream {
        name: "coredns",
        version: "1.14.7",
        source: Source::Go { cgo: false, tags: "", ldflags: "-s -w", package: "tool" },
        packed: &[Packed::Image(Recipe {
            file: "coredns.tar",
            reference: "registry.k8s.io/coredns/coredns:v1.14.7",
            files: &[("coredns", "coredns")],
            entrypoint: &["/coredns"],
            command: &[],
            applets: false,
        })],
    },
    // The newest that is to be had as a module, under the name of the version that kdiy installs.
    // (What that adds is what it refuses, and nothing here asks for any of it.)
    Upstream {
        name: "local-path",
        version: "0.0.30",
        source: Source::Go {
            cgo: false,
            tags: "",
            ldflags: "-s -w -X main.VERSION=v0.0.30",
            package: "tool",
        },
        packed: &[Packed::Image(Recipe {
            file: "local-path-provisioner.tar",
            reference: "docker.io/rancher/local-path-provisioner:v0.0.36",
            files: &[("local-path-provisioner", "usr/bin/local-path-provisioner")],
            entrypoint: &["/usr/bin/local-path-provisioner"],
            command: &[],
            applets: false,
        })],
    },
    Upstream {
        name: "pause",
        version: "3.10.2",
        source: Source::Go { cgo: false, tags: "", ldflags: "-s -w", package: "." },
        packed: &[Packed::Image(Recipe {
            file: "pause.tar",
            reference: "registry.k8s.io/pause:3.10.2",
            files: &[("pause", "pause")],
            entrypoint: &["/pause"],
            command: &[],
            applets: false,
        })],
    },
    // Debian's busybox, older than the name that kdiy knows the image by. It has the shell, httpd
    // and wget that pods are tried with, but its wget crashes when it is given `-T`.
    Upstream {
        name: "busybox",
        version: "1.37",
        source: Source::DebianBusybox,
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
