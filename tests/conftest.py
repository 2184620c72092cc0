"""What every test of this project shares."""

from hypothesis import settings

# Shared machines pause at any moment: an example is judged by its result, never by its time.
settings.register_profile("mlxmesh", deadline=None, print_blob=True)
settings.load_profile("mlxmesh")
