"""Network namespaces joined by impaired links: the project's own laboratory."""
