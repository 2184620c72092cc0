"""How a service process starts, joins its mesh, follows its settings, forks and stops."""
