def write_plan(*a): raise NotImplementedError
