"""Primary objects of a clip, found without a mark: `FindNetwork`."""
