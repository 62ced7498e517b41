"""Print the installed versions as pip constraints (`make constraints`), without local version labels and edgesafe itself."""

from importlib import metadata

pins = {
    dist.metadata["Name"].lower().replace("_", "-"): dist.version.partition("+")[0]
    for dist in metadata.distributions()
    if dist.metadata["Name"].lower() not in {"edgesafe", "pip", "setuptools", "wheel"}
}
print("# Versions that `make demo` and `make test` install. Refresh with `make constraints`.")
for name in sorted(pins):
    print(f"{name}=={pins[name]}")
