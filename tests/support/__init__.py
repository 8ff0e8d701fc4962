"""What tests share: builders, processes, proxies, oracles."""
