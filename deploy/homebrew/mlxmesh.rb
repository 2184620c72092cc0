# The formula of mlxmesh, for a tap of your own. `deploy/tools/write-formula` puts a release's addresses and hashes in.
class Mlxmesh < Formula
  desc "Serve MLX language models to gRPC clients, from one laptop to a rack of machines"
  homepage "HOMEPAGE"
  url "WHEEL_URL", using: :nounzip
  version "VERSION"
  sha256 "WHEEL_SHA256"
  license "Apache-2.0"

  depends_on "uv" => :build
  depends_on arch: :arm64
  depends_on :macos
  depends_on "python@3.11"

  # Versions and hashes of all packages. They are installed as wheels by uv, which checks the hashes: MLX and others
  # would need toolchains to be built as Homebrew's resources.
  resource "constraints" do
    url "CONSTRAINTS_URL", using: :nounzip
    sha256 "CONSTRAINTS_SHA256"
  end

  def install
    wheel = buildpath.glob("*.whl").first
    resource("constraints").stage { buildpath.install Dir["*"].first => "constraints.txt" }
    python = Formula["python@3.11"].opt_bin/"python3.11"
    system "uv", "venv", "--python", python, libexec
    system "uv", "pip", "install", "--python", libexec/"bin/python", "--constraint", "constraints.txt",
           "mlxmesh[all] @ file://#{wheel}"
    bin.install_symlink libexec/"bin/mlxmesh"
    generate_completions_from_executable(bin/"mlxmesh", "completion", shells: [:bash, :zsh, :fish])
  end

  # SIGTERM stops the services in order, and each lets its calls finish.
  service do
    run [opt_bin/"mlxmesh", "up"]
    keep_alive successful_exit: false
    log_path var/"log/mlxmesh.log"
    error_log_path var/"log/mlxmesh.log"
  end

  test do
    assert_match "mlxmesh up", shell_output("#{bin}/mlxmesh --help")
  end
end
