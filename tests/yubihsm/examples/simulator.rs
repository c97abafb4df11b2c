//! The simulator by itself, to try things by hand: says where its connector is, and runs until it is ended.

fn main() {
    let simulator = holdfast_yubihsm_simulator::Simulator::start();
    println!("{} (serial {}): a simulator, no YubiHSM", simulator.connector(), simulator.serial());
    loop {
        std::thread::park();
    }
}
