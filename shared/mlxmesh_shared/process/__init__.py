"""How a service process starts, forks, follows its settings and stops."""
