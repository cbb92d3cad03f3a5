"""Methods from papers, each a choice at every stage of the engine and a training objective."""
